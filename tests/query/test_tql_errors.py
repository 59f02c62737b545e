"""Whatever is not understood is an error that points at its place. The carets mark where."""

import pytest
from tql_table import CATALOG

from lakefmt.errors import TqlError
from lakefmt.query.translate import translate

#: query, a line with ^ under the place, and a piece of the message
ERRORS = """
select * where labels == 'cta'
                         ^^^^^ did you mean 'cat'
select * where labels in ('cat', 'dgo')
                                 ^^^^^ did you mean 'dog'
select * where labels in ('cat', 2.5)
                                 ^^^ a name or an integer id
select * where contains(labels, 'plane')
                                ^^^^^^^ no class 'plane'
select * where lables == 3
               ^^^^^^ did you mean 'labels'
select * where n > 1 and "apple" == text
                         ^^^^^^^ single quotes: 'apple'
select * where anny(boxes > 3)
               ^^^^ did you mean 'ANY'
select * where lenght(text) > 3
               ^^^^^^ did you mean 'LENGTH'
select * where n > 1 && score > 2
                     ^^ write AND instead of &&
select * where n > 1 || score > 2
                     ^^ write OR instead of ||
select * where n > 1 & score
                     ^ write AND
select * where n > 1 garbage
                     ^^^^^^^ should have ended here, found 'garbage'
select * where n > 1 ~
                     ^ found '~'
select * where n > 1; select *
                      ^^^^^^ stands too late or twice
selct * where n > 1
^^^^^ did you mean SELECT
select * were n > 1
         ^^^^ did you mean WHERE
drop table t
^^^^ DROP is not supported
update t set x = 1
^^^^^^ UPDATE is not supported
with a as (select 1) select *
^^^^ WITH is not supported
select * where boxes > 3
               ^^^^^^^^^ wrap it in ANY
select * where boxes[:,3] > 3 and n > 1
               ^^^^^^^^^^^^^^ wrap it in ANY
select * where grid[4,0] > 3
                    ^ out of range: the dimension has 4
select * where grid[0,-6] > 3
                      ^^ out of range: the dimension has 5
select * where any(grid[0,0,0] > 3)
                   ^^^^^^^^^^^ 3 indices for an array of 2 dimensions
select * where text[0] == 'a'
               ^^^^^^^ texts cannot be indexed
select * where grid['a'] == 1
                    ^^^ an index must be an integer
select * where grid[n] == 1
                    ^ an index must be a constant
select grid[::0] as g
            ^^^ the step of a slice is not 0
select grid[0:1:1:1] as g
                  ^ at most start:stop:step
select image[0:100] as crop
       ^^^^^^^^^^^^ not supported yet
select image * 2 as i
       ^^^^^ pixels are not supported yet
select * where cosine_similarity(emb, array[1, 2]) > 0.5
                                      ^^^^^^^^^^^ 3 and 2 elements
select * order by l2_norm(emb - array[1, 2, 3, 4])
                                ^^^^^^^^^^^^^^^^^ 3 and 4 elements
select * where cosine_similarity(n, array[1]) > 0.5
                                 ^ single value
select * where any(emb == array[1, 2])
                   ^^^^^^^^^^^^^^^^^^ shapes (3,) and (2,) do not go together
select * where any(grid == half)
                   ^^^^^^^^^^^^ 2 and 1 dimensions
select * order by boxes
                  ^^^^^ an array has no order
select * order by 1
                  ^ not a constant
select * order by n nulls first
                    ^^^^^ missing values always come last
select n + score
       ^^^^^^^^^ several tensors: give it a name with AS
select row_number()
       ^^^^^^^^^^^^ no tensor: give it a name with AS
select n, text as n
          ^^^^^^^^^ two columns 'n'
select *, score * 2 as score
          ^^^^^^^^^^^^^^^^^^ two columns 'score'
select * where text == 3
               ^^^^^^^^^ cannot compare a text with a number
select * where n == 'a'
               ^^^^^^^^ cannot compare 'a' with a number ('n' is of dtype int32)
select * where n + text > 3
                   ^^^^ + needs numbers, not a text
select * where text
               ^^^^ a text is no condition
select * where n == null
               ^^^^^^^^^ use IS NULL
select * where labels > 'cat'
               ^^^^^^^^^^^^^^ class names have no order
select * where 1 < n < 3
                     ^ comparisons do not chain
select * where n in (select 1)
                     ^^^^^^ IN (SELECT …) is not supported
select * where (select 1) > 3
                ^^^^^^ after FROM only
select * where n > 'abc
                   ^ string does not end
select * where "abc > 3
               ^ quoted name does not end
select * /* where
         ^^ comment does not end
select 1x
       ^^ no number
select * where n % 0 == 1
               ^^^^^ division by zero
select * where a.b == 3
                ^ "group/tensor"
select * where text.contains("1")
                    ^^^^^^^^ write contains(text, '1')
select * where n > 1 and text.contains('it''s')
                              ^^^^^^^^ write contains(text, 'it''s')
select * where "group/x".max() > 1
                         ^^^ write max("group/x")
select * where text.contains(lower(text), 1)
                    ^^^^^^^^ write contains(text, …)
select * where text.contains(
                    ^^^^^^^^ write contains(text, …)
select text.contains
           ^ "group/tensor"
select count(*) as c
             ^ * stands alone
select count(n) as c
       ^^^^^ needs GROUP BY
select sum(n) over () as s
              ^^^^ OVER
select * where any(n, 1)
               ^^^^^^^^^ ANY takes 1 argument, not 2
select * where avg(line, 0) > 1
               ^^^^^^^^^^^^ AVG takes 1 argument
select * group by labels
         ^^^^^ GROUP BY is not supported yet
select * where n > 1 expand by 1 1
                     ^^^^^^ EXPAND BY is not supported yet
select * sample by n
         ^^^^^^ SAMPLE BY is not supported yet
select * where n > 1 union (select *)
                     ^^^^^ UNION is not supported yet
select * limit 3 intersect select *
                 ^^^^^^^^^ INTERSECT is not supported yet
select * ungroup by split
         ^^^^^^^ UNGROUP BY is not supported yet
select * from a, b
               ^ several datasets
select * from a join b on a.x = b.y
                ^^^^ JOIN is not supported yet
select * limit 10 percent
                  ^^^^^^^ PERCENT is not supported yet
select * limit -1
               ^^ must not be negative
select * limit 1.5
               ^^^ must be an integer
select * limit n
               ^ must be a constant
select top 3 * limit 2
               ^^^^^ TOP and LIMIT
select * limit 3 where n > 1
                 ^^^^^ too late or twice
select * where n between 1
                          ^ the query ends too early: expected AND
select * where
              ^ the query ends too early
select * where any(n
                    ^ the query ends too early: expected )
select * where case when n > 1 then 2 else 'a' end == 2
               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ partly texts
select cast(n as nonsense) as c
                 ^^^^^^^^ CAST knows no type
select a as b, b as a
       ^ tensor 'a' does not exist
select n + m as m where m > 1
       ^^^^^^^^^^ computed from itself
select distinct *
       ^^^^^^^^ cannot compare the images
select distinct n, row_number() as k
       ^^^^^^^^ ROW_NUMBER() is not supported yet
select * where bm25_similarity(text, 'a') > 1
               ^^^^^^^^^^^^^^^ BM25_SIMILARITY is not supported yet
select * where meta[0:2] == 1
               ^^^^^^^^^ one key or one position at a time
select * where shape(text)[0] > 1
                     ^^^^ have no shape
select getenv('HOME') as home
       ^^^^^^ function 'getenv' does not exist
select * where read_text('/etc/passwd') == ''
               ^^^^^^^^^ function 'read_text' does not exist
select * where n > 99999999999999999999
                   ^^^^^^^^^^^^^^^^^^^^ does not fit in 64 bits
select * where n == ?
                    ^ no value was given
select * where n == $best
                    ^^^^^ no value was given for $best
text.contians("a")
^^^^^^^^^^^^^ no method 'contians'; did you mean 'contains'
labels == "cta"
          ^^^^^ did you mean 'cat'
boxes.maxi > 3
^^^^^^^^^^ neither a tensor nor a property
n > 3 & score.max > 2
    ^^^^^^^^^^^^^ write and instead of &
open("/etc/passwd").read() == "a"
^^^^^^^^^^^^^^^^^^^^^^^^ no method 'read'
__import__("os") == 1
^^^^^^^^^^ function '__import__' does not exist
[x for x in (1, 2)] == n.max
^^^^^^^^^^^^^^^^^^^ ListComp expressions are not supported
(lambda: 1)() == n.max
 ^^^^^^^^^ only functions of TQL
n.max if flag else 3
^^^^^^^^^^^^^^^^^^^^ IfExp expressions are not supported
contains(text, 'ü') and lables.max > 3
                        ^^^^^^ did you mean 'labels'
n > 3 and foo bar
              ^^^ should have ended here
""".strip("\n").splitlines()

CASES = list(zip(ERRORS[::2], ERRORS[1::2], strict=True))


@pytest.mark.parametrize(("query", "marks"), CASES, ids=[q for q, _ in CASES])
def test_error_points_at_its_place(query: str, marks: str) -> None:
    place = marks.lstrip(" ")
    carets = len(place) - len(place.lstrip("^"))
    with pytest.raises(TqlError) as caught:
        translate(query, CATALOG)
    error = caught.value
    assert place[carets:].strip() in str(error)
    assert (error.position, error.length) == (marks.index("^"), carets), str(error)


def test_second_line() -> None:
    with pytest.raises(TqlError, match="at line 2, column 7") as caught:
        translate("select *\nwhere foo > 3", CATALOG)
    assert caught.value.position == 15


@pytest.mark.parametrize("query", ["", "   ", "select", "(", "select * where " + "(" * 500 + "n" + ")" * 500,
                                   "not " * 5000 + "n", "-" * 3 + "n"])  # fmt: skip
def test_odd_texts_are_tql_errors_or_queries(query: str) -> None:
    found: TqlError | None = None
    try:
        translate(query, CATALOG)
    except TqlError as error:
        found = error
    assert found is None or found.position is not None


@pytest.mark.parametrize("query", ["", "   ", "  -- only a comment"])
def test_nothing_is_no_query(query: str) -> None:
    with pytest.raises(TqlError, match="query is empty"):
        translate(query, CATALOG)
