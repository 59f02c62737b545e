SELECT _row, CAST(f8 AS BIGINT) * 2 AS _c0, COALESCE(f8 > 3, FALSE) AS _c1, CASE WHEN f8 > 3 THEN $1 ELSE $2 END AS _c2 FROM t ORDER BY _row
-- $1 = 'big'
-- $2 = 'small'
