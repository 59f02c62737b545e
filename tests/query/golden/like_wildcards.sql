SELECT _row FROM t WHERE f6 LIKE $1 OR f6 ILIKE $2 OR f6 LIKE $3 ESCAPE '\' ORDER BY _row
-- $1 = '%1'
-- $2 = 'FRAME _'
-- $3 = 'a\\_b'
