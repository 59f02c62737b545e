SELECT _row, row_number() OVER (ORDER BY -f5, _row) - 1 AS _c0 FROM t WHERE f0 = 1 ORDER BY -f5, _row
