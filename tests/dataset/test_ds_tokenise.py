"""``lakefmt.tokenise``: token ids of all texts, in order, as one version, by any function; or nothing at all."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import encoder_functions as functions
import numpy as np
import pytest
from dataset_tools import stored, unchanged, values
from hypothesis import given
from hypothesis import strategies as st

import lakefmt
from lakefmt import tokenise as tokenise_function
from lakefmt.errors import AlreadyExists, Conflict, DtypeError, InvalidInput, NoSuchTensor, ReadOnly
from lakefmt.tokenising import tokenise

TEXTS = ["to be", "", "or not", "to be, that is", "the question", "œuvre"]


def ids_of(texts: list[str | None]) -> list[list[int] | None]:
    return [None if t is None else functions.codes(t) for t in texts]


@pytest.fixture
def ds(mem_url: str) -> Any:
    """Texts in two fragments."""
    made = lakefmt.empty(mem_url)
    made.create_tensor("text", htype="text")
    made.extend({"text": TEXTS[:4]})
    made.commit("one")
    made.extend({"text": TEXTS[4:]})
    made.commit("two")
    return made


@given(
    st.lists(st.lists(st.none() | st.text("abc", max_size=5), max_size=5), max_size=3),
    st.sets(st.integers(0, 14)),
    st.integers(1, 6),
    st.booleans(),
)
def test_ids_are_those_of_the_texts(fragments: list[list[str | None]], gone: set[int], batch_size: int, batched: bool) -> None:
    ds = lakefmt.empty(f"mem://{uuid.uuid4().hex}")
    ds.create_tensor("text", htype="text")
    for texts in fragments:
        ds.extend({"text": texts})
        ds.flush()
    rows = sorted(g for g in gone if g < len(ds))
    ds.pop(rows)
    texts = [t for i, t in enumerate(t for some in fragments for t in some) if i not in rows]
    before = len(list(ds.history()))
    fn = functions.lists if batched else functions.codes
    count = tokenise(ds, "text", "ids", fn, batch_size=batch_size, batched=batched)
    assert values(ds, "ids") == ids_of(texts)
    assert values(lakefmt.load(ds.path), "ids") == ids_of(texts)
    assert count == sum(len(t) for t in texts if t is not None)
    assert len(list(ds.history())) == before + 1
    assert len(ds.ids) == len(ds)


@pytest.mark.parametrize("fn", [functions.lists, functions.arrays, functions.dicts, functions.encodings])
def test_what_tokenizers_return(ds: Any, fn: Any) -> None:
    tokenise(ds, "text", "ids", fn, batch_size=2)
    assert values(ds, "ids") == ids_of(TEXTS)  # type: ignore[arg-type]
    assert ds.ids.dtype == np.int32
    assert ds.ids.htype == "generic"


def test_a_real_tokenizer(ds: Any) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {w: i for i, w in enumerate(["[UNK]", "to", "be", "or", "not"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenise(ds, "text", "a", tokenizer.encode_batch, dtype="uint16")
    tokenise(ds, "text", "b", tokenizer.encode, batched=False, num_workers=1)
    assert values(ds, "a") == values(ds, "b") == [[1, 2], [], [3, 4], [1, 2, 0, 0, 0], [0, 0], [0]]


def test_processes_give_the_same_in_the_same_order(ds: Any) -> None:
    ds.extend({"text": [f"text {i}" * (i % 7) for i in range(500)]})
    tokenise(ds, "text", "one", functions.lists, batch_size=7)
    tokenise(ds, "text", "two", functions.lists, batch_size=7, num_workers=2)
    assert values(ds, "one") == values(ds, "two")


def test_texts_that_are_not_stored(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text("first line\nsecond\n\nlast", encoding="utf-8")
    ds = lakefmt.empty(str(tmp_path / "ds"))
    with open(tmp_path / "play.txt", encoding="utf-8") as lines:
        assert tokenise(ds, lines, "ids", functions.lists, dtype="uint8", batch_size=3) == 23
    assert values(lakefmt.load(str(tmp_path / "ds")), "ids") == ids_of(["first line\n", "second\n", "\n", "last"])
    assert tokenise(ds, (t for t in ["more", None]), "ids", functions.lists, dtype="uint8") == 4
    assert values(ds, "ids")[4:] == ids_of(["more", None])
    assert len(list(ds.history())) == 3
    assert tokenise(lakefmt.empty(str(tmp_path / "none")), [], "ids", functions.lists) == 0
    assert list(lakefmt.load(str(tmp_path / "none")).tensors) == ["ids"]


def test_more_than_a_fragment(monkeypatch: pytest.MonkeyPatch, mem_url: str) -> None:
    monkeypatch.setattr("lakefmt.tokenising.FRAGMENT_NBYTES", 1000)
    ds = lakefmt.empty(mem_url)
    texts = [f"text number {i}" for i in range(60)]
    tokenise(ds, texts, "ids", functions.lists, batch_size=5)
    assert len(ds.source().fragments) > 3
    assert len(list(ds.history())) == 2
    assert values(ds, "ids") == ids_of(texts)  # type: ignore[arg-type]


def test_a_text_that_fails_is_named_and_nothing_is_stored(ds: Any) -> None:
    ds.extend({"text": ["fine", "a bad one " * 10, "fine"]})
    ds.flush()
    for workers in (0, 1):
        with unchanged(ds), pytest.raises(InvalidInput, match=r"row 7 \('a bad one a .*…'\): KeyError: 'no such token'") as info:
            tokenise(ds, "text", "ids", functions.picky, num_workers=workers)
        assert workers or isinstance(info.value.__cause__, KeyError)
    with pytest.raises(InvalidInput, match=r"row 0 .*KeyError"):
        tokenise(lakefmt.empty(f"mem://{uuid.uuid4().hex}"), ["bad"], "ids", functions.picky)


def test_only_together(ds: Any) -> None:
    def never_two(texts: list[str]) -> list[list[int]]:
        if len(texts) > 1:
            raise RuntimeError("one at a time")
        return functions.lists(texts)

    with unchanged(ds), pytest.raises(InvalidInput, match=r"never_two raised RuntimeError.*rows 0 to 3 together"):
        tokenise(ds, "text", "ids", never_two)
    with pytest.raises(InvalidInput, match="cannot be sent to another process"):
        tokenise(ds, "text", "ids", never_two, num_workers=1)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda texts: [[1]], "returned 1 lists of ids for 4 texts"),
        (lambda texts: [[0.5] for _ in texts], r"row 0 \('to be'\): token ids are a list of integers, got \[0.5\]"),
        (lambda texts: [["a"] for _ in texts], "list of integers"),
        (lambda texts: [[[1]] for _ in texts], "2 dimensions"),
        (lambda texts: [[1, 1 << 31] for _ in texts], r"2147483648 is outside int32 .*dtype="),
        (lambda texts: {"ids": []}, "no 'input_ids' but 'ids'"),
        (lambda texts: None, "NoneType"),
        (lambda texts: [[1], [2, [3]], [], []], "row 1"),
    ],
)
def test_what_are_no_ids(ds: Any, fn: Any, message: str) -> None:
    with unchanged(ds), pytest.raises(InvalidInput, match=message):
        tokenise(ds, "text", "ids", fn)


def test_wrong_arguments(ds: Any) -> None:
    ds.create_tensor("numbers", dtype="int32")
    ok = functions.lists
    with unchanged(ds):
        for wrong in ({"batch_size": 0}, {"num_workers": -1}, {"batched": 1}, {"num_workers": 1.5}):
            with pytest.raises(InvalidInput, match=next(iter(wrong))):
                tokenise(ds, "text", "ids", ok, **wrong)
        with pytest.raises(DtypeError, match="float32"):
            tokenise(ds, "text", "ids", ok, dtype="float32")
        with pytest.raises(InvalidInput, match="fn is a function"):
            tokenise(ds, "text", "ids", "gpt2")  # type: ignore[arg-type]
        with pytest.raises(NoSuchTensor, match="texts"):
            tokenise(ds, "texts", "ids", ok)
        with pytest.raises(DtypeError, match="texts are wanted"):
            tokenise(ds, "numbers", "ids", ok)
        with pytest.raises(AlreadyExists, match="'numbers'"):
            tokenise(ds, "text", "numbers", ok)
        with pytest.raises(AlreadyExists, match="tensor and a group"):
            tokenise(ds, "text", "text/ids", ok)
        for name in ("commit", "a b/", 3):
            with pytest.raises(InvalidInput):
                tokenise(ds, "text", name, ok)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="rows of their own"):
            tokenise(ds, ["a"], "ids", ok)
        with pytest.raises(InvalidInput, match="iterable of str"):
            tokenise(ds, 5, "ids", ok)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="a dataset that can be written"):
            tokenise(ds[:2], "text", "ids", ok)
        with pytest.raises(ReadOnly):
            tokenise(lakefmt.load(ds.path, read_only=True), "text", "ids", ok)
    fresh = lakefmt.empty(f"mem://{uuid.uuid4().hex}")
    with pytest.raises(DtypeError, match=r"of row 1 is 5 \(int\)"):
        tokenise(fresh, ["a", 5], "ids", ok)  # type: ignore[list-item]
    fresh.create_tensor("ids", dtype="int64")
    with pytest.raises(DtypeError, match="dtype int64"):
        tokenise(fresh, ["a"], "ids", ok)
    assert tokenise_function is tokenise


def test_what_others_commit_meanwhile_stays(ds: Any) -> None:
    other = lakefmt.load(ds.path)

    def and_others(texts: list[str]) -> list[list[int]]:
        if "to be" in texts:
            other.extend({"text": ["later"]})
            other.commit("meanwhile")
            other.pop(1)
        return functions.lists(texts)

    tokenise(ds, "text", "ids", and_others)
    assert values(ds, "ids") == ids_of([TEXTS[0], *TEXTS[2:]])
    assert values(ds, "text") == [TEXTS[0], *TEXTS[2:], "later"]


def test_rows_that_others_compact_meanwhile(ds: Any) -> None:
    other = lakefmt.load(ds.path)

    def and_others(texts: list[str]) -> list[list[int]]:
        other.compact()
        return functions.lists(texts)

    with pytest.raises(Conflict):
        tokenise(ds, "text", "ids", and_others)
    assert "ids" not in lakefmt.load(ds.path)
    ds.refresh()
    tokenise(ds, "text", "ids", functions.lists)
    assert values(ds, "ids") == ids_of(TEXTS)  # type: ignore[arg-type]


def test_a_run_that_takes_too_long(ds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakefmt.tokenising.TRANSACTION_AGE_MAX_S", -1)
    with unchanged(ds), pytest.raises(Conflict, match="nothing was stored"):
        tokenise(ds, "text", "ids", functions.lists)


def test_a_worker_that_dies(ds: Any) -> None:
    with unchanged(ds), pytest.raises(BrokenProcessPool):
        tokenise(ds, "text", "ids", functions.dying, num_workers=1)


_KILLED = """
import os, signal, sys
import lakefmt
def fn(texts):
    if "the question" in texts:
        os.kill(os.getpid(), signal.SIGKILL)
    return [[1] for _ in texts]
lakefmt.tokenise(lakefmt.load(sys.argv[1]), "text", "ids", fn)
"""


def test_killed_half_way_the_dataset_is_what_it_was(tmp_path: Path) -> None:
    path = str(tmp_path / "ds")
    ds = lakefmt.empty(path)
    ds.create_tensor("text", htype="text")
    for some in (TEXTS[:4], TEXTS[4:]):
        ds.extend({"text": some})
        ds.commit("some")
    before = stored(path)
    done = subprocess.run([sys.executable, "-c", _KILLED, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert stored(path) == before
    tokenise(lakefmt.load(path), "text", "ids", functions.lists)
    assert values(lakefmt.load(path), "ids") == ids_of(TEXTS)  # type: ignore[arg-type]
