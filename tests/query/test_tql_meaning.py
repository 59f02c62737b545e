"""Each construct of TQL means what the oracle says, on a table with missing, empty and NaN."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tql_compare import check

CONDITIONS = """
n > 3
not (n > 3)
not n > 3 and not (score < 2)
n != 3
not (n != 3)
n
not n
n == 2 or n == 3 and flag
flag == true
not flag
flag == 1
flag + 1 == 2
(n > 3) == (meta['odd key.'])
(n > 3) == flag
flag and n > 0 and not flag or n == 1 and (score > 2 or n > 2)
any(boxes[0] == boxes[1])
any(boxes[:,2] > amax(boxes[:,0]))
shape(line)[0] == 3
volume[0][1][2] > 4
sum(boxes > 100) > 2
contains(array[1, 2, 3], n)
labels in (0, 'dog')
(n > 3) == (score > 2)
score > 2.5
score >= 2.5
score < 2.5
score <= 2.5
score == 0.1
score != 0.1
not (score > 2.5)
not (score != 0.1)
score > score
score == score
score != score
score < n
n < score
score between 1 and 3.5
score not between 1 and 3.5
n in (1, 2, 3)
n not in (1, 2, 3)
score in (0.1, 0.2, 1.5)
n between -1 and 3
text in ('Apple', 'axb')
text > 'b'
text between 'a' and 'b'
text like 'a*'
text like '?pple*'
text like 'a_b'
text like '100%'
text ilike 'FRAME ?'
text not like '*e*'
caption like '*'
not (caption like 'a*')
caption == 'it''s'
caption != 'Apple'
contains(text, 'pp')
not contains(caption, 'p')
text == ''
labels == 'cat'
labels != 'cat'
'cat' == labels
labels in ('cat', 'dog')
labels not in ('cat', 'dog')
labels == 2
contains(labels, 'cat')
contains(labels, '*cat')
labels like '*cat'
contains(labels, 'zz*')
tags == 'red'
tags != 'red'
not (tags == 'red')
tags in ('red', 'blue')
tags not in ('red', 'blue')
contains(tags, 'red')
contains(tags, '*e*')
contains(tags, 2)
any(tags == 'red')
all(tags == 'red')
all_strict(tags == 'red')
tags[0] == 'red'
any(tags[1:] == 'green')
shape(tags)[0] > 1
shape(image)[0] > 645
shape(image)[-1] == 3
shape(boxes)[0] == 2
shape(mixed)[1] == 2
shape(grid)[1] == 5
any(shape(points) == 0)
any(boxes[:,3] > 200)
all(boxes[:,3] > 100)
all_strict(boxes[:,3] > 100)
not any(boxes[:,3] > 200)
not all(boxes[:,3] > 100)
not all_strict(boxes[:,3] > 100)
any(logical_and(boxes[:,0] > 100, boxes[:,3] > 200))
any(logical_or(boxes[:,0] > 290, boxes[:,3] > 290))
all(boxes[:,0] < boxes[:,2])
any(boxes[:,0] * 2 < boxes[:,2] + 1)
any(boxes < 5)
all(not boxes < 5)
boxes[0,1] > 100
boxes[0][1] > 100
boxes[-1,2] > 100
not (boxes[0,1] > 100)
any(boxes[0] > 200)
any(boxes[0:2, 1:3] > 200)
any(points[:,1] > 3)
any(points[:,0] == points[:,1])
all(points[:,0] <= points[:,1])
any(points[1] > 3)
points[1,2] > 0
points[-1,-2] > 0
any(points[::-1, 0] > 3)
sum(points) > 0
any(mixed > 2)
any(mixed[0:2] == 1)
mixed[1] > 0
any(mixed[:,0] > 0)
any(mixed == mixed)
any(line > 3.5)
any(line != line)
line[2] > 2
line[-1] > 2
any(line[-3:-1] > 3)
any(line[::2] > 3)
amax(line) > 3
amin(line) > 1
max(mixed) > 2
min(mixed) < -2
sum(line) > 6
sum(mixed) == 0
prod(mixed) == 0
avg(mixed) > 0.5
mean(line) < 2
not (avg(mixed) > 0.5)
sum(line[0:2]) > 3
sum(boxes[:,0]) > 300
size(points) == 6
contains(mixed, 2)
contains(line, 1.5)
not contains(mixed, 2)
contains(half, 0.1)
any(half == 0.1)
sum(half) > 1.2
n + 1 > 3
n * n == 9
n - 5 < -4
-n > 2
n / 2 == 1.5
n % 3 == 1
n % 3 == -1
7 % n == 1
"group/x" + 200 > 300
"group/x" * "group/x" > 20000
-"group/x" < -250
any(grid + 200 > 450)
any(grid * 2 == 0)
sqrt(abs(n)) >= 2
abs(n) == 3
any(abs(mixed) == 3)
any(sqrt(line) > 1.9)
"group/x" > 100 and N > 2 and n > 0
cosine_similarity(emb, array[1, 2, 3]) > 0.5
cosine_similarity(line, array[1, 2, 3]) > 0.5
l2_norm(emb) > 2
l2_norm(emb - array[1, 0, 1]) < 2
l1_norm(emb - array[1, 0, 1]) < 2
linf_norm(emb - array[1, 0, 1]) <= 1
l1_norm(line) > 5
linf_norm(line) > 3
l2_norm(line) > 4
dot(emb, array[1, 1, 1]) > 0
dot(mixed[0:2], array[1, 1]) > 0
any(emb == array[1, 1, 1])
any(emb in (1, 2))
meta['a']['b'] > 9
not (meta['a']['b'] > 9)
meta['s'] == 'x1'
meta['s'] != 'x1'
meta['s'] in ('x1', 'x2')
meta['s'] like 'x?'
meta['l'][0] == 3
meta['l'][-1] == 3
meta['a']['b'] + 1 > 10
meta['odd key.'] == true
meta['odd key.']
contains(meta['tags'], 'p')
contains(meta['l'], 3)
contains(keys(meta), 'a')
any(keys(meta) == 'a')
meta['a'] is null
meta['a']['b'] is not null
meta is null
n is null
n is not null and not (n is null)
boxes is null
image is null
labels is not null
row_number() % 7 == 0
_row < 5 or _id > 57
case when n > 3 then true else false end
case n when 1 then 1 when 2 then 0 end == 1
cast(n as double) / 4 > 0.6
upper(text) == 'APPLE'
length(text) > 5
true
false or n == 1
""".strip().splitlines()

SELECTS = """
select * order by score
select * order by score desc
select * order by n, score desc
select * order by n desc, text
select * order by labels desc, n limit 10
select * order by flag, n desc
select * order by -n
select * order by meta['a']['b'] limit 5
select * where n > 0 order by n desc limit 5 offset 2
select top 4 *
select * limit all
select * offset 55
select * limit 0
select distinct labels
select distinct labels, n order by n desc
select distinct text
select distinct grid
select distinct points
select distinct tags
select distinct n limit 3
select distinct n + 1 as m
select labels, text
select n * 2 where n > 2
select n + score as total
select n / 0 as a, score / 2 as b, n % 4 as c
select line * 2, mixed + 1, boxes - 1
select boxes[:,0:2] as a, boxes[1:] as b, boxes[::-1] as c, boxes[0] as d
select points[1:3] as a, points[:, 1:3] as b, points[:,::-1] as c, points[-2:] as d, points[:-1, -1] as e
select volume[1] as a, volume[:,1] as b, volume[:,:,1] as c, volume[0:2,::2,-1:] as d, volume[-1,0] as e
select line[::-1] as a, line[-2:] as b, line[:-2] as c, line[1:10:2] as d, line[-5:3] as e, line[3:1:-1] as f
select grid[1:3, ::2] as a, grid[-1] as b, grid[:,2] as c, grid[0,0] as d, grid[2:1] as e
select grid[:, 4:0:-2] as f, mixed[::-1] as a, mixed[:,0] as b
select shape(points) as a, shape(mixed) as b, shape(image) as c, shape(grid) as d, shape(boxes[0]) as e
select sum(mixed) as a, avg(mixed) as b, amax(mixed) as c, amin(line) as d, prod(mixed) as e, sum(grid) as f
select flag == true as t, meta['odd key.'] == true as u, not flag as v
select n > 3 as a, any(boxes > 200) as b, tags == 'red' as c, not n as d
select boxes > 100 as a, logical_and(boxes > 100, boxes < 200) as b
select meta['a'] as a, meta['l'][0] as b, meta['s'] as c
select case when n > 3 then 'big' when n > 0 then 'small' else 'none' end as a, n > 3 as b
select case when n > 3 then n end as c, cast(n as varchar) as a, cast("group/x" as double) as b
select cosine_similarity(emb, array[1, 2, 3]) as s order by s desc limit 7
select *, cosine_similarity(emb, array[1, 2, 3]) as s order by s desc
select * from (select *, cosine_similarity(emb, array[1,2,3]) as s) order by s desc limit 2
select * from (select *, n * 2 as m where n > 0) where m < 9 order by m desc
select * from (select * order by score desc limit 20) where n > 0
select * from (select * order by score desc limit 20) where row_number() < 5
select * from (select * order by score desc limit 20) order by n
select * from (select * order by score desc) order by n
select * from (select * order by n limit 20 offset 5) where row_number() < 5
select * from (select * where n > 0) where row_number() < 5
select distinct points limit 4
select distinct labels, group_x from (select *, "group/x" % 3 as group_x)
select * from (select *, line * 2 as twice limit 30) where any(twice > 6)
select m + 1 as k from (select n * 2 as m order by m limit 9)
select x, x + 1 as y from (select n as x where n > 2)
select * from (select distinct labels, n) where n > 2 order by n
select * from (select * from (select *, n + 1 as a) where a > 2) where a < 5 order by a desc limit 3
select *, row_number() as k where n > 1 order by score desc
select row_number() as k order by n limit 5 offset 3
select *, n * 2 as m where m > 6 order by m
select n * 2 as n2 where n2 > 6 order by n2 desc
select *, score as s2 order by s2 desc
select upper(text) as u, round(score) as r
select keys(meta) as k
""".strip().splitlines()


@pytest.mark.parametrize("condition", CONDITIONS)
def test_condition(condition: str) -> None:
    check(f"select * where {condition}")


@pytest.mark.parametrize("query", SELECTS)
def test_select(query: str) -> None:
    check(query)


COMPOUND = st.recursive(
    st.sampled_from(CONDITIONS),
    lambda inner: st.one_of(
        st.builds("({}) and ({})".format, inner, inner),
        st.builds("({}) or ({})".format, inner, inner),
        st.builds("not ({})".format, inner),
        st.builds("({}) == ({})".format, inner, inner),
    ),
    max_leaves=6,
)


@given(COMPOUND)
@settings(max_examples=200, deadline=None)
def test_conditions_combine(condition: str) -> None:
    check(f"select * where {condition}")
