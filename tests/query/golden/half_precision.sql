SELECT _row FROM t WHERE list_bool_or(list_transform(f17, lambda x: x = CAST(0.0999755859375e0 AS REAL))) AND list_contains(f17, CAST(0.5e0 AS REAL)) ORDER BY _row
