SELECT _row FROM t WHERE COALESCE(list_bool_and(list_transform(f2[1:-:4], lambda x, i: x < f2[i * 4 - 1] AND NOT isnan(f2[i * 4 - 1]))), len(f2) = 0) ORDER BY _row
