SELECT _row FROM t WHERE list_bool_or(list_transform(f11[3:-:5], lambda x: CAST(x AS BIGINT) * 2 + 1 > 300)) ORDER BY _row
