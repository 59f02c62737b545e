SELECT _row, f12__shape AS _c0, CAST($1 AS BIGINT[]) AS _c1, 4 AS _c2, len(f2) AS _c3 FROM t ORDER BY _row
-- $1 = [4, 5]
