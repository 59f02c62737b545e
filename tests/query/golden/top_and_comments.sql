SELECT _row FROM t WHERE f5 >= 1 AND NOT isnan(f5) ORDER BY -f5, _row LIMIT 3
