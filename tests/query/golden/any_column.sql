SELECT _row FROM t WHERE list_bool_or(list_transform(f2[4:-:4], lambda x: x > 200 AND NOT isnan(x))) ORDER BY _row
