"""Imports point downwards, go in no circle, and ``import lakefmt`` brings nothing heavy with it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from house_imports import Import, imports, modules

#: Lowest first. A module may import its own layer and those before it.
LAYERS = (
    ("_version", "errors", "cells", "rows", "storage", "htypes", "codecs", "sample"),
    ("fragment",),
    ("versioning",),
    (
        "samples",
        "rowspans",
        "snapshot",
        "pending",
        "download",
        "staging",
        "rebase",
        "compact",
        "outgoing",
        "writer",
        "handle",
        "schema",
        "bulk",
        "merge_schema",
        "merge",
        "merge_base",
        "place",
        "copies",
        "transfer",
        "diverged",
        "versions",
        "upkeep",
        "rowset",
        "view",
        "tensor",
        "dataset",
        "encoders",
        "tokenising",
        "api",
        "show",
        "random",
        "lakefmt",
    ),
    ("query", "loaders"),
    ("cli", "commands", "demo"),
)

#: Methods of what people hold that reach up to the room that knows, each by an import inside the function.
UPWARD = {
    ("lakefmt.api", "lakefmt.query"),
    ("lakefmt.dataset", "lakefmt.query"),
    ("lakefmt.rowset", "lakefmt.query"),
    ("lakefmt.rowset", "lakefmt.loaders"),
    ("lakefmt.view", "lakefmt.query"),
}

#: What only the room that needs it may import, and when.
HEAVY = ("torch", "tensorflow", "jax", "torchcodec", "duckdb", "sqlglot", "pandas", "PIL", "simplejpeg", "s3fs", "gcsfs", "adlfs")

_ALL = imports()
_OURS = [i for i in _ALL if i.target.split(".")[0] == "lakefmt"]


def _layer(module: str) -> int:
    room = module.split(".")[1] if "." in module else module
    found = [n for n, names in enumerate(LAYERS) if any(room == x or (x == "demo" and room.startswith("demo")) for x in names)]
    assert found, f"{module} has no place in LAYERS"
    return found[0]


def _in_layers(i: Import) -> bool:
    return i.source != "lakefmt.testing"


def test_there_is_something_to_look_at() -> None:
    assert len(modules()) > 40
    assert len(_OURS) > 150
    assert {"lakefmt.versioning.log", "lakefmt.query.run", "lakefmt.loaders.engine"} <= set(modules())


def test_no_upward_imports() -> None:
    upward = [i for i in _OURS if _in_layers(i) and _layer(i.target) > _layer(i.source)]
    unlisted = [str(i) for i in upward if (i.source, i.target) not in UPWARD or not (i.local or i.typing_only)]
    assert unlisted == []


def test_the_table_of_exceptions_has_no_dead_entry() -> None:
    assert {(i.source, i.target) for i in _OURS if _in_layers(i) and _layer(i.target) > _layer(i.source)} == UPWARD


def test_the_conformance_suite_knows_the_port_only() -> None:
    assert {i.target for i in _OURS if i.source == "lakefmt.testing"} <= {"lakefmt.errors", "lakefmt.storage"}
    assert [i for i in _ALL if i.target == "pytest" and i.source != "lakefmt.testing"] == []
    assert [str(i) for i in _OURS if i.target == "lakefmt.testing"] == []


def test_no_relative_imports() -> None:
    assert [str(i) for i in _ALL if i.level] == []


def test_no_bare_imports_of_the_rooms() -> None:
    assert [str(i) for i in _ALL if i.target in ("query", "loaders", "versioning")] == []


def test_no_circles() -> None:
    """Over imports that run when a module is loaded."""
    graph: dict[str, set[str]] = {m: set() for m in modules()}
    for i in _OURS:
        if not i.local and not i.typing_only and i.target != i.source:
            graph[i.source].add(i.target)
    while True:
        leaves = [m for m, targets in graph.items() if not targets & graph.keys()]
        if not leaves:
            break
        for m in leaves:
            del graph[m]
    assert graph == {}, f"a circle among {sorted(graph)}"


@pytest.mark.parametrize("heavy", HEAVY)
def test_heavy_packages_are_imported_inside_functions(heavy: str) -> None:
    """Below the rooms that are themselves imported inside functions."""
    early = [str(i) for i in _ALL if i.target == heavy and not i.local and not i.typing_only and _layer(i.source) < 4]
    assert early == []


_LOADS = """
import json, sys, threading
import lakefmt
print(json.dumps({"modules": sorted(sys.modules), "threads": [t.name for t in threading.enumerate()]}))
"""


def test_import_lakefmt_is_light() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", _LOADS], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert [m for m in loaded["modules"] if m.split(".")[0] in HEAVY] == []
    assert [m for m in loaded["modules"] if m.startswith(("lakefmt.query", "lakefmt.loaders", "lakefmt.testing"))] == []
    assert loaded["threads"] == ["MainThread"]
    assert done.stderr == ""


_STRACE = """
import builtins, os, socket, sys
import lakefmt.errors, numpy, pyarrow, pyarrow.parquet, msgspec, fsspec, xxhash  # what others do when imported is theirs
touched = []
sys.addaudithook(lambda name, args: touched.append((name, str(args[0]))) if name in ("socket.connect", "socket.getaddrinfo",
    "subprocess.Popen", "os.mkdir", "_thread.start_new_thread") or (name == "open" and "w" in str(args[1])) else None)
import lakefmt
print(touched)
"""


def test_import_lakefmt_calls_nobody_and_writes_nothing() -> None:
    env_flag = ["-B"]  # no .pyc files
    done = subprocess.run([sys.executable, *env_flag, "-c", _STRACE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
