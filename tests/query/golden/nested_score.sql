SELECT _row, array_cosine_similarity(CAST(f3 AS REAL[3]), CAST($1 AS REAL[3])) AS _c0 FROM t ORDER BY -_c0, _row LIMIT 2
-- $1 = [1, 2, 3]
