SELECT _row, f13[2:3] AS _c0, f13[-2:] AS _c1, f13[1:-2] AS _c2, f13[2:-:2] AS _c3, f13[3] AS _c4, f13[-1] AS _c5 FROM t ORDER BY _row
