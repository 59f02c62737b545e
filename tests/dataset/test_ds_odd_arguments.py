"""Arguments of kinds nobody expects, given to what a dataset offers on versions and upkeep: our errors, and nothing changed."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lakefmt
from lakefmt.errors import LakeError

_ODD = [
    None, True, 5, -1, 1.5, math.nan, math.inf, 1e300, "x", "", b"x", [], {}, "\ud800", 2**70, np.int64(3),
    datetime.timedelta(days=1), object(),
]  # fmt: skip


def _lease(ds: Any, hours: Any, **options: Any) -> None:
    with ds.lease(hours, **options):
        pass


_CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "lease": _lease,
    "lease holder": lambda ds, v: _lease(ds, 1, holder=v),
    "expire": lambda ds, v: ds.expire(v, dry_run=True),
    "expire keep": lambda ds, v: ds.expire(keep=v, dry_run=True),
    "expire grace": lambda ds, v: ds.expire(grace_s=v, dry_run=True),
    "checkout as_of": lambda ds, v: ds.checkout(as_of=v),
    "checkout": lambda ds, v: ds.checkout(v),
    "checkout create": lambda ds, v: ds.checkout(v, create=True),
    "create_branch": lambda ds, v: ds.create_branch(v),
    "create_branch at": lambda ds, v: ds.create_branch("new", v),
    "delete_branch": lambda ds, v: ds.delete_branch(v),
    "rename_branch": lambda ds, v: ds.rename_branch("dev", v),
    "rename_branch from": lambda ds, v: ds.rename_branch(v, "new"),
    "tag": lambda ds, v: ds.tag(v),
    "tag at": lambda ds, v: ds.tag("new", v),
    "tag message": lambda ds, v: ds.tag("new", message=v),
    "get_tag": lambda ds, v: ds.get_tag(v),
    "delete_tag": lambda ds, v: ds.delete_tag(v),
    "get_commit_details": lambda ds, v: ds.get_commit_details(v),
    "diff": lambda ds, v: ds.diff(v),
    "diff second": lambda ds, v: ds.diff("main", v),
    "diff_of": lambda ds, v: ds.diff_of(v),
    "modified_rows": lambda ds, v: ds.x.modified_rows(v),
    "merge": lambda ds, v: ds.merge(v),
    "merge resolution": lambda ds, v: ds.merge("dev", v),
    "merge message": lambda ds, v: ds.merge("dev", message=v),
    "cherry_pick": lambda ds, v: ds.cherry_pick(v),
    "revert": lambda ds, v: ds.revert(v),
    "restore": lambda ds, v: ds.restore(v),
    "squash": lambda ds, v: ds.squash(v),
    "commit": lambda ds, v: ds.commit(v, allow_empty=True),
    "repair": lambda ds, v: ds.repair(v, dry_run=True),
    "push": lambda ds, v: ds.push(v),
    "push as_branch": lambda ds, v: ds.push(ds.path, as_branch=v),
    "pull": lambda ds, v: ds.pull(v),
    "pop": lambda ds, v: ds.pop(v),
    "upsert": lambda ds, v: ds.upsert(v, "x"),
    "upsert key": lambda ds, v: ds.upsert({"x": [1]}, v),
    "delete": lambda ds, v: ds.delete(v),
    "update": lambda ds, v: ds.update("x == 1", v),
    "rename_tensor": lambda ds, v: ds.rename_tensor("y", v),
    "rename_tensor from": lambda ds, v: ds.rename_tensor(v, "new"),
    "delete_tensor": lambda ds, v: ds.delete_tensor(v),
    "alter_tensor": lambda ds, v: ds.alter_tensor(v, htype="generic"),
    "alter_tensor dtype": lambda ds, v: ds.alter_tensor("x", dtype=v),
    "alter_tensor htype": lambda ds, v: ds.alter_tensor("x", htype=v),
}


@pytest.mark.parametrize("call", _CALLS)
@pytest.mark.parametrize("odd", range(len(_ODD)), ids=[f"{i}-{type(v).__name__}" for i, v in enumerate(_ODD)])
def test_an_odd_argument_is_taken_or_refused_by_an_error_of_ours(call: str, odd: int) -> None:
    ds = lakefmt.dataset(f"mem://{uuid.uuid4().hex}")
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("y", dtype="int64")
    ds.extend({"x": [1, 2, 3], "y": [4, 5, 6]})
    ds.commit("first")
    ds.create_branch("dev")
    before = ds.version_id
    refused = False
    try:
        _CALLS[call](ds, _ODD[odd])
    except LakeError:
        refused = True
    if refused:
        assert lakefmt.load(ds.path).version_id == before, "something was committed all the same"
        assert len(ds.x) == 3
