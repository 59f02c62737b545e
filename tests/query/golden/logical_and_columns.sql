SELECT _row FROM t WHERE list_bool_or(list_transform(f2[1:-:4], lambda x, i: x > 100 AND NOT isnan(x) AND -f2[i * 4] < -200)) ORDER BY _row
