SELECT _row FROM t WHERE list_bool_and(CASE WHEN f12__shape[2] > 1 THEN list_transform(f12[2:-:f12__shape[2]], lambda x: x > 0) END) ORDER BY _row
