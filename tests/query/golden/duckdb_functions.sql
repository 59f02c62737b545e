SELECT _row, upper(f6) AS _c0 FROM t WHERE length(f15) > 3 AND round(f5) = 2 ORDER BY _row
