SELECT _row FROM t WHERE COALESCE(list_bool_and(list_transform(f2[4:-:4], lambda x: x > 100 AND NOT isnan(x))), len(f2) = 0) ORDER BY _row
