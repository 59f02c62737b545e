SELECT _row FROM t WHERE CAST(hash(_row, 0, 0) >> 33 AS BIGINT) % 3 = 0 ORDER BY CAST(hash(_row, 0, 1) >> 33 AS BIGINT), _row
