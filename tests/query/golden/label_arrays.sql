SELECT _row FROM t WHERE list_contains(f4, 0) OR list_has_any(f4, [0, 1, 2]) OR list_has_any(f4, [1, 2]) ORDER BY _row
