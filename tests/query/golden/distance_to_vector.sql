SELECT _row FROM t ORDER BY array_distance(CAST(f3 AS REAL[3]), CAST($1 AS REAL[3])), _row LIMIT 3
-- $1 = [1, 2, 3]
