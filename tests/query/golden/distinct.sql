SELECT DISTINCT ON (f0, f12, [f12__shape[1], f12__shape[2]]) _row FROM t ORDER BY f0 DESC, _row LIMIT 5
