SELECT _row FROM t WHERE f0 = 0 AND f1__shape[1] > 645 ORDER BY _row LIMIT 3
