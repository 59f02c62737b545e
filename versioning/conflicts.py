"""The conflict table: what a transaction must do when another landed first.

One row an operation of mine, one column an operation of theirs; each cell names a rule, each rule is a small function over
what the two changes touched. ``spec/LOG.md`` shows the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum

from lakefmt.versioning.records import Operation, Touch

_O = Operation


class Verdict(IntEnum):
    """In order of severity: apply mine on top of theirs; build mine again from the new state; give up."""

    COMMUTE = 0
    RERUN = 1
    FAIL = 2


Rule = Callable[[Touch, Touch], Verdict]


def _when(verdict: Verdict, test: Callable[[Touch, Touch], bool]) -> Rule:
    return lambda mine, theirs: verdict if test(mine, theirs) else Verdict.COMMUTE


def _same_fragment(mine: Touch, theirs: Touch) -> bool:
    return not set(mine.fragments).isdisjoint(theirs.fragments)


def _same_tensor(mine: Touch, theirs: Touch) -> bool:
    return not set(mine.tensors).isdisjoint(theirs.tensors)


def _same_cells(mine: Touch, theirs: Touch) -> bool:
    return _same_fragment(mine, theirs) and _same_tensor(mine, theirs)


def _same_name(mine: Touch, theirs: Touch) -> bool:
    return not set(mine.names).isdisjoint(theirs.names)


def _edits(mine: Touch, theirs: Touch) -> Verdict:
    if not _same_tensor(mine, theirs):
        return Verdict.COMMUTE
    return Verdict.RERUN if mine.names == ("classes",) else Verdict.FAIL  # additions are made anew from their definition


def _fills(mine: Touch, theirs: Touch) -> Verdict:
    if not _same_cells(mine, theirs):
        return Verdict.COMMUTE
    return Verdict.FAIL if "fill" in mine.names else Verdict.RERUN  # what is appended to a tensor has a place that is gone now


#: The rules, by the name used in the table and in the specification.
RULES: Mapping[str, Rule] = {
    "commutes": lambda mine, theirs: Verdict.COMMUTE,
    "rerun": lambda mine, theirs: Verdict.RERUN,
    "rerun on same fragment": _when(Verdict.RERUN, _same_fragment),
    "rerun on same tensor": _when(Verdict.RERUN, _same_tensor),
    "rerun on same fragment and tensor": _when(Verdict.RERUN, _same_cells),
    "rerun on same fragment and tensor, fail for fills": _fills,
    "fail on same fragment and tensor": _when(Verdict.FAIL, _same_cells),
    "fail": lambda mine, theirs: Verdict.FAIL,
    "fail on same name": _when(Verdict.FAIL, _same_name),
    "fail on same tensor": _when(Verdict.FAIL, _same_tensor),
    "rerun class names, fail on same tensor": _edits,
}

_ = "commutes"
_R, _RF, _RT, _RC = "rerun", "rerun on same fragment", "rerun on same tensor", "rerun on same fragment and tensor"
_F, _XC = "rerun on same fragment and tensor, fail for fills", "fail on same fragment and tensor"
_X, _XN, _XT, _E = "fail", "fail on same name", "fail on same tensor", "rerun class names, fail on same tensor"

_COLUMNS = (
    _O.APPEND, _O.DELETE, _O.UPDATE, _O.ADD_TENSOR, _O.WRITE_COLUMN, _O.EDIT_SCHEMA, _O.CONFIG, _O.NAME,
)  # fmt: skip

#: mine -> theirs -> rule
TABLE: Mapping[Operation, Mapping[Operation, str]] = {
    mine: dict(zip(_COLUMNS, row, strict=True))
    for mine, row in {
        #                    append delete update add_tensor write_column edit_schema config name
        _O.APPEND:          (_,     _,     _,     _,         _,           _RT,        _,     _),
        _O.DELETE:          (_,     _RF,   _,     _,         _,           _,          _,     _),
        _O.UPDATE:          (_,     _RF,   _F,    _,         _F,          _RT,        _,     _),
        _O.ADD_TENSOR:      (_,     _,     _,     _XN,       _,           _,          _,     _),
        _O.WRITE_COLUMN:    (_,     _,     _XC,   _,         _XC,         _RT,        _,     _),
        _O.EDIT_SCHEMA:     (_,     _,     _RT,   _,         _RT,         _E,         _,     _),
        _O.CONFIG:          (_,     _,     _,     _,         _,           _,          _XN,   _),
        _O.NAME:            (_,     _,     _,     _,         _,           _,          _,     _),
    }.items()
}  # fmt: skip


def judge(mine: Iterable[Touch], theirs: Iterable[Touch]) -> tuple[Verdict, str]:
    """The severest verdict over all pairs, and a sentence about the pair that earned it."""
    worst, why = Verdict.COMMUTE, ""
    theirs = list(theirs)
    for a in mine:
        for b in theirs:
            rule = TABLE.get(a.operation, {}).get(b.operation, _X)
            verdict = RULES[rule](a, b)
            if verdict > worst:
                worst, why = verdict, f"my {a.operation} against their {b.operation}: {rule}"
    return worst, why
