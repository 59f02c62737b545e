SELECT _row FROM (SELECT *, row_number() OVER (ORDER BY -f5, _row) - 1 AS _p1 FROM t ORDER BY -f5, _row LIMIT 20) AS t WHERE _p1 < 5 ORDER BY f8, _p1, _row
