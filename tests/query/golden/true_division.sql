SELECT _row, f8 / 2 AS _c0, CAST(f8 AS BIGINT) % 4 AS _c1 FROM t WHERE CAST(f8 AS BIGINT) % nullif(f18, 0) = 0 ORDER BY _row
