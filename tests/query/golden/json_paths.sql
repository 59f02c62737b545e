SELECT _row FROM t WHERE -TRY_CAST(json_extract_string(f7, '$."a"."b"') AS DOUBLE) < -9 AND json_extract_string(f7, '$."s"') = $1 ORDER BY _row
-- $1 = 'x1'
