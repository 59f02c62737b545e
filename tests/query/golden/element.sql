SELECT _row FROM t WHERE -f2[2] < -100 AND f11[20] > 100 AND CASE WHEN f12__shape[1] > 0 AND f12__shape[2] > 0 THEN f12[(f12__shape[1] - 1) * f12__shape[2] + 1] END > 0 ORDER BY _row
