"""The conflict table: every cell has a rule, and each rule tells apart what commutes from what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakefmt.versioning.changes import ANY
from lakefmt.versioning.conflicts import RULES, TABLE, Verdict, judge
from lakefmt.versioning.records import Operation, Touch

O, C, P, R, F = Operation, Verdict.COMMUTE, Verdict.PART, Verdict.RERUN, Verdict.FAIL  # noqa: E741

_CELLS = [(mine, theirs) for mine in TABLE for theirs in TABLE[mine]]


@pytest.mark.parametrize(("mine", "theirs"), _CELLS, ids=[f"{a}-{b}" for a, b in _CELLS])
def test_every_cell_names_a_rule(mine: Operation, theirs: Operation) -> None:
    name = TABLE[mine][theirs]
    apart = RULES[name](Touch(operation=mine, fragments=("a",), tensors=(1,), names=("a",)),
                        Touch(operation=theirs, fragments=("b",), tensors=(2,), names=("b",)))  # fmt: skip
    always = {"fail": F, "rerun": R}.get(name, C)
    assert apart is always, "two changes that touch nothing in common disturb each other only where the table says so"
    assert judge([Touch(operation=mine)], [Touch(operation=theirs)])[0] is always


def test_the_table_is_square_and_names_every_operation() -> None:
    assert set(TABLE) == set(Operation)
    assert all(set(TABLE[mine]) == set(TABLE) for mine in TABLE)
    assert {rule for row in TABLE.values() for rule in row.values()} <= set(RULES)


def test_nothing_commutes_with_a_seal_or_with_an_overwrite_of_data() -> None:
    for known in TABLE:
        assert judge([Touch(operation=known)], [Touch(operation=O.SEAL)])[0] is F
    for data in (O.APPEND, O.DELETE, O.UPDATE, O.ADD_TENSOR, O.WRITE_COLUMN, O.COMPACT, O.EDIT_SCHEMA):
        assert judge([Touch(operation=data)], [Touch(operation=O.OVERWRITE)])[0] is F
        assert judge([Touch(operation=O.OVERWRITE)], [Touch(operation=data)])[0] is F


def test_many_fragments_are_any_fragment() -> None:
    many = Touch(operation=O.DELETE, fragments=(ANY,))
    assert judge([many], [Touch(operation=O.DELETE, fragments=("f",))])[0] is R
    assert judge([Touch(operation=O.UPDATE, fragments=("f",), tensors=(1,))], [many])[0] is R
    assert judge([many], [Touch(operation=O.DELETE)])[0] is C


def _touch(operation: Operation, what: str) -> Touch:
    """``f``: fragment f; ``t``: tensor 1; ``n``: a name; ``c``: only class names; ``d``: dropped."""
    return Touch(
        operation=operation, fragments=("f",) if "f" in what else (f"only {operation}",),
        tensors=(1,) if "t" in what or "c" in what or "d" in what else (),
        names=("classes",) if "c" in what else ("dropped",) if "d" in what else ("n",) if "n" in what else (),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mine", "mine_on", "theirs", "theirs_on", "verdict"),
    [
        (O.APPEND, "ft", O.APPEND, "ft", C),
        (O.APPEND, "t", O.DELETE, "f", C),
        (O.APPEND, "t", O.ADD_TENSOR, "tn", C),
        (O.APPEND, "t", O.EDIT_SCHEMA, "t", R),
        (O.APPEND, "t", O.EDIT_SCHEMA, "c", R),
        (O.APPEND, "", O.EDIT_SCHEMA, "t", C),
        (O.APPEND, "t", O.EDIT_SCHEMA, "d", F),
        (O.APPEND, "t", O.COMPACT, "f", C),
        (O.DELETE, "f", O.COMPACT, "f", R),
        (O.UPDATE, "ft", O.COMPACT, "f", R),
        (O.UPDATE, "ft", O.EDIT_SCHEMA, "d", F),
        (O.WRITE_COLUMN, "ft", O.COMPACT, "f", R),
        (O.WRITE_COLUMN, "ft", O.EDIT_SCHEMA, "d", F),
        (O.COMPACT, "f", O.DELETE, "f", P),
        (O.COMPACT, "f", O.UPDATE, "ft", P),
        (O.COMPACT, "f", O.WRITE_COLUMN, "ft", P),
        (O.COMPACT, "f", O.COMPACT, "f", P),
        (O.COMPACT, "f", O.DELETE, "", C),
        (O.COMPACT, "f", O.APPEND, "t", C),
        (O.COMPACT, "f", O.EDIT_SCHEMA, "d", C),
        (O.EDIT_SCHEMA, "n", O.ADD_TENSOR, "n", F),
        (O.ADD_TENSOR, "n", O.EDIT_SCHEMA, "n", F),
        (O.EDIT_SCHEMA, "c", O.EDIT_SCHEMA, "d", F),
        (O.OVERWRITE, "", O.CONFIG, "n", C),
        (O.CONFIG, "n", O.OVERWRITE, "", C),
        (O.DELETE, "f", O.DELETE, "f", R),
        (O.DELETE, "f", O.DELETE, "", C),
        (O.DELETE, "f", O.APPEND, "f", C),
        (O.UPDATE, "ft", O.UPDATE, "ft", R),
        (O.UPDATE, "f", O.UPDATE, "ft", C),
        (O.UPDATE, "t", O.UPDATE, "ft", C),
        (O.UPDATE, "ft", O.DELETE, "f", R),
        (O.UPDATE, "ft", O.WRITE_COLUMN, "ft", R),
        (O.UPDATE, "ft", O.EDIT_SCHEMA, "t", R),
        (O.ADD_TENSOR, "n", O.ADD_TENSOR, "n", F),
        (O.ADD_TENSOR, "n", O.ADD_TENSOR, "", C),
        (O.WRITE_COLUMN, "ft", O.WRITE_COLUMN, "ft", F),
        (O.WRITE_COLUMN, "ft", O.WRITE_COLUMN, "f", C),
        (O.WRITE_COLUMN, "ft", O.UPDATE, "ft", F),
        (O.WRITE_COLUMN, "t", O.EDIT_SCHEMA, "t", R),
        (O.EDIT_SCHEMA, "t", O.EDIT_SCHEMA, "t", F),
        (O.EDIT_SCHEMA, "c", O.EDIT_SCHEMA, "c", R),
        (O.EDIT_SCHEMA, "c", O.EDIT_SCHEMA, "t", R),
        (O.EDIT_SCHEMA, "t", O.EDIT_SCHEMA, "", C),
        (O.EDIT_SCHEMA, "t", O.UPDATE, "ft", R),
        (O.CONFIG, "n", O.CONFIG, "n", F),
        (O.CONFIG, "n", O.APPEND, "ft", C),
        (O.NAME, "", O.EDIT_SCHEMA, "t", C),
        (O.APPEND, "t", O.NAME, "", C),
    ],
)
def test_verdicts(mine: Operation, mine_on: str, theirs: Operation, theirs_on: str, verdict: Verdict) -> None:
    assert judge([_touch(mine, mine_on)], [_touch(theirs, theirs_on)])[0] is verdict


def test_the_severest_pair_decides_and_is_named() -> None:
    mine = [_touch(O.APPEND, "t"), _touch(O.ADD_TENSOR, "n")]
    theirs = [_touch(O.EDIT_SCHEMA, "t"), _touch(O.ADD_TENSOR, "n"), _touch(O.APPEND, "ft")]
    verdict, why = judge(mine, theirs)
    assert verdict is F
    assert why == "this add-tensor does not go with the add-tensor of another handle (fail on same new name)"
    assert judge(mine, theirs[:1])[0] is R
    assert judge(mine, theirs[2:]) == (C, "")
    assert judge(iter(mine), iter(theirs))[0] is F


def test_the_specification_shows_this_table() -> None:
    spec = Path(__file__).resolve().parents[2] / "spec" / "LOG.md"
    lines = [line.strip() for line in spec.read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    at = next(i for i, row in enumerate(rows) if row[0].startswith("mine"))
    header, body = rows[at], rows[at + 2 : at + 2 + len(TABLE)]
    shown = {row[0]: {theirs: cell or "commutes" for theirs, cell in zip(header[1:], row[1:], strict=True)} for row in body}
    assert shown == {str(mine): {str(theirs): rule for theirs, rule in cells.items()} for mine, cells in TABLE.items()}
