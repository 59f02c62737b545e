"""What DuckDB says when it cannot run a query, in terms of the query: tensors by name, the place, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Sequence

import duckdb

from lakefmt.errors import LakeError, StoreError, TqlError
from lakefmt.query.catalog import Catalog

#: a piece of a reason, and what to do about it
_REMEDIES: Sequence[tuple[str, str]] = (
    (r"could not parse string .* according to", "try_strptime leaves missing what does not convert"),
    (
        r"could not (convert|cast)|can't be cast|field format|field value out of range",
        "TRY_CAST leaves missing what does not convert",
    ),
    (r"Overflow in", "CAST one side to DOUBLE to compute without a bound"),
    (r"No function matches", "CAST the arguments to what it takes"),
    (r"Cannot compare values", "CAST one of them to the type of the other"),
    (r"memory", "give it more by LAKEFMT_QUERY_MEMORY (DuckDB's syntax: 8GB), or ask for fewer rows or columns at a time"),
)
_OURS = re.compile(r"\bf(\d+)(?:__shape)?\b")
_KIND = re.compile(r"^(?:\w+\s)+Error:\s*")
_ADVICE = re.compile(r"\s*You might need to add explicit type casts\.?")
_CALL = re.compile(r"argument types '(\w+)\(")


def refusal(error: duckdb.Error, tql: str, catalog: Catalog) -> LakeError:
    """An error of ours for one of DuckDB's: of the query, or (``StoreError``) of the files it reads and the disk it spills to."""
    reason = _ADVICE.sub("", _KIND.sub("", str(error).split("\n", 1)[0])).rstrip(".!")
    names = {i.definition.id: name for name, i in catalog.items()}
    found = [names[int(k)] for k in _OURS.findall(reason) if int(k) in names]
    reason = _OURS.sub(lambda m: repr(names[int(m[1])]) if int(m[1]) in names else m[0], reason)
    if isinstance(error, duckdb.IOException):
        return StoreError(f"the query engine could not read the dataset's files, or write its own: {reason}")
    remedy = next((f"; {text}" for piece, text in _REMEDIES if re.search(piece, reason, re.IGNORECASE)), "")
    start, length = _place(tql, reason, found)
    return TqlError(f"the query engine refused the query: {reason}{remedy}", tql, start, length)


def _place(tql: str, reason: str, tensors: Sequence[str]) -> tuple[int | None, int]:
    """Where in the query: the function, else the cast of the tensor, else its first mention."""
    call = _CALL.search(reason)
    patterns = [rf"\b{call[1]}\b(?=\s*\()"] if call else []
    for name in dict.fromkeys(tensors):
        mention = rf'(?:"{re.escape(name)}"|(?<!\w){re.escape(name)}(?!\w))'
        patterns += [rf"\bcast\s*\(\s*{mention}", mention]
    for pattern in patterns:
        if found := re.search(pattern, tql, re.IGNORECASE):
            return found.start(), found.end() - found.start()
    return None, 1
