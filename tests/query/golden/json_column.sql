SELECT _row, json_extract(f7, '$."l"[#-1]') AS _c0, json_extract(f7, '$."odd key."') AS _c1 FROM t WHERE list_contains(json_extract_string(f7, '$."tags"[*]'), $1) ORDER BY _row
-- $1 = 'p'
