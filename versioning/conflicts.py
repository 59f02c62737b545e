"""The conflict table: what a transaction must do when another landed first.

One row an operation of mine, one column an operation of theirs; each cell names a rule, each rule is a small function over
what the two changes touched. ``spec/LOG.md`` shows the same table; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum

from lakefmt.versioning.changes import ANY, Edit
from lakefmt.versioning.records import Operation, Touch

_O = Operation


class Verdict(IntEnum):
    """In order of severity.

    ``COMMUTE``  apply mine on top of theirs
    ``PART``     apply mine on top of theirs, less what concerns the fragments they touched
    ``RERUN``    build mine again from the new state
    ``FAIL``     give up
    """

    COMMUTE = 0
    PART = 1
    RERUN = 2
    FAIL = 3


Rule = Callable[[Touch, Touch], Verdict]


def _when(verdict: Verdict, test: Callable[[Touch, Touch], bool]) -> Rule:
    return lambda mine, theirs: verdict if test(mine, theirs) else Verdict.COMMUTE


def _same_fragment(mine: Touch, theirs: Touch) -> bool:
    either_any = (ANY in mine.fragments and bool(theirs.fragments)) or (ANY in theirs.fragments and bool(mine.fragments))
    return either_any or not set(mine.fragments).isdisjoint(theirs.fragments)


def _same_tensor(mine: Touch, theirs: Touch) -> bool:
    return not set(mine.tensors).isdisjoint(theirs.tensors)


def _same_cells(mine: Touch, theirs: Touch) -> bool:
    return _same_fragment(mine, theirs) and _same_tensor(mine, theirs)


def _same_name(mine: Touch, theirs: Touch) -> bool:
    return not set(mine.names).isdisjoint(theirs.names)


def _fills(mine: Touch, theirs: Touch) -> Verdict:
    if not _same_cells(mine, theirs):
        return Verdict.COMMUTE
    return Verdict.FAIL if "fill" in mine.names else Verdict.RERUN  # what is appended to a tensor has a place that is gone now


def _written(mine: Touch, theirs: Touch) -> Verdict:
    """My samples of a tensor whose definition they edited."""
    if not _same_tensor(mine, theirs):
        return Verdict.COMMUTE
    unchecked = Edit.DROPPED in theirs.names or Edit.RETYPED in theirs.names
    return Verdict.FAIL if unchecked else Verdict.RERUN


def _retypes(mine: Touch, theirs: Touch) -> Verdict:
    """Rows appended to a tensor that I gave another htype: they were not looked at."""
    return Verdict.RERUN if Edit.RETYPED in mine.names and _same_tensor(mine, theirs) else Verdict.COMMUTE


def _info(mine: Touch, theirs: Touch) -> Verdict:
    """Metadata, of which a restore has an older form."""
    return Verdict.FAIL if "info" in (*mine.names, *theirs.names) else Verdict.COMMUTE


def _edits(mine: Touch, theirs: Touch) -> Verdict:
    if _same_tensor(mine, theirs):
        additions = mine.names == (Edit.CLASSES,) and Edit.DROPPED not in theirs.names  # made anew from their definition
        return Verdict.RERUN if additions else Verdict.FAIL
    return _same_new_name(mine, theirs)


def _same_new_name(mine: Touch, theirs: Touch) -> Verdict:
    """Two tensors given one name."""
    given = [set(t.names) - set(Edit) for t in (mine, theirs)]
    return Verdict.COMMUTE if given[0].isdisjoint(given[1]) else Verdict.FAIL


#: The rules, by the name used in the table and in the specification.
RULES: Mapping[str, Rule] = {
    "commutes": lambda mine, theirs: Verdict.COMMUTE,
    "rerun": lambda mine, theirs: Verdict.RERUN,
    "rerun on same fragment": _when(Verdict.RERUN, _same_fragment),
    "rerun on same tensor": _when(Verdict.RERUN, _same_tensor),
    "rerun on same fragment and tensor": _when(Verdict.RERUN, _same_cells),
    "rerun on same fragment and tensor, fail for fills": _fills,
    "rerun on same tensor, fail if dropped or retyped": _written,
    "rerun if mine is retyped": _retypes,
    "fail for info": _info,
    "leave out same fragments": _when(Verdict.PART, _same_fragment),
    "fail on same fragment and tensor": _when(Verdict.FAIL, _same_cells),
    "fail": lambda mine, theirs: Verdict.FAIL,
    "fail on same name": _when(Verdict.FAIL, _same_name),
    "fail on same new name": _same_new_name,
    "rerun class names, fail on same tensor or new name": _edits,
}

_ = "commutes"
_R, _RF, _RT, _RC = "rerun", "rerun on same fragment", "rerun on same tensor", "rerun on same fragment and tensor"
_F, _XC = "rerun on same fragment and tensor, fail for fills", "fail on same fragment and tensor"
_W, _P, _N = "rerun on same tensor, fail if dropped or retyped", "leave out same fragments", "fail on same new name"
_RA, _XI = "rerun if mine is retyped", "fail for info"
_X, _XN, _E = "fail", "fail on same name", "rerun class names, fail on same tensor or new name"

_COLUMNS = (
    _O.APPEND, _O.DELETE, _O.UPDATE, _O.ADD_TENSOR, _O.WRITE_COLUMN, _O.COMPACT, _O.EDIT_SCHEMA, _O.OVERWRITE, _O.CONFIG, _O.NAME,
    _O.SEAL,
)  # fmt: skip

#: mine -> theirs -> rule
TABLE: Mapping[Operation, Mapping[Operation, str]] = {
    mine: dict(zip(_COLUMNS, row, strict=True))
    for mine, row in {
        #                    append delete update add_tensor write_col compact edit overwrite config name seal
        _O.APPEND:          (_,     _,     _,     _,         _,        _,      _W,  _X,       _,     _,   _X),
        _O.DELETE:          (_,     _RF,   _RF,   _,         _,        _RF,    _,   _X,       _,     _,   _X),
        _O.UPDATE:          (_,     _RF,   _F,    _,         _F,       _RF,    _W,  _X,       _,     _,   _X),
        _O.ADD_TENSOR:      (_,     _,     _,     _N,        _,        _,      _N,  _X,       _,     _,   _X),
        _O.WRITE_COLUMN:    (_,     _,     _XC,   _,         _XC,      _RF,    _W,  _X,       _,     _,   _X),
        _O.COMPACT:         (_,     _P,    _P,    _R,        _P,       _P,     _,   _X,       _,     _,   _X),
        _O.EDIT_SCHEMA:     (_RA,   _,     _RT,   _N,        _RT,      _,      _E,  _X,       _,     _,   _X),
        _O.OVERWRITE:       (_X,    _X,    _X,    _X,        _X,       _X,     _X,  _X,       _XI,   _,   _X),
        _O.CONFIG:          (_,     _,     _,     _,         _,        _,      _,   _XI,      _XN,   _,   _X),
        _O.NAME:            (_,     _,     _,     _,         _,        _,      _,   _,        _,     _,   _X),
        _O.SEAL:            (_X,    _X,    _X,    _X,        _X,       _X,     _X,  _X,       _X,    _X,  _X),
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
                worst, why = verdict, f"this {a.operation} does not go with the {b.operation} of another handle ({rule})"
    return worst, why
