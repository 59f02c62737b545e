SELECT _row FROM t WHERE contains(f6, $1) AND NOT COALESCE(f5 > 3 AND NOT isnan(f5), FALSE) AND f2__shape[1] > 1 AND 1 < f9 AND f9 < 200 ORDER BY _row
-- $1 = 'pp'
