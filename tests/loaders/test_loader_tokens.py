"""``tokens()``: blocks of all documents end to end, whatever layout, updates, deletions and views they come through."""

from __future__ import annotations

import json
import pickle
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_fake import FakeSource
from token_tools import Corpus, blocks, corpora, stream

import lakefmt
from lakefmt.errors import Corrupt, DtypeError, InvalidInput, NoSuchTensor, ShapeError
from lakefmt.fragment import spans
from lakefmt.loaders import dataloader, map_dataset
from lakefmt.loaders.tokens import TokenBlocks

CORPUS = Corpus([[5, 0, 7, None, 3], [1, 9], [4, None]], updates={2: 11, 5: None, 6: 2}, deletes=(4,))


def loaded(loader: Any) -> list[list[int]]:
    return [block for batch in loader for block in batch["ids"].tolist()]


@settings(max_examples=60)
@given(corpora(), st.integers(1, 40), st.none() | st.integers(0, 9), st.integers(0, 3), st.booleans())
def test_blocks_are_those_of_the_stream(corpus: Corpus, size: int, eos: int | None, overlap: int, by_position: bool) -> None:
    rows, documents = corpus.build()
    size *= corpus.scale if corpus.scale < 50 else corpus.scale // 10
    overlap = min(overlap, size - 1)
    expected = blocks(documents, size, eos, overlap)
    limit = spans.MAPPED_SHARE
    spans.MAPPED_SHARE = 1 << 60 if by_position else limit
    try:
        chain = rows.dataloader().tokens(size, eos=eos, overlap=overlap)
        if not expected:
            with pytest.raises(InvalidInput, match=r"less than one block|not one token"):
                chain.numpy()
            return
        assert loaded(chain.batch(3).numpy()) == expected
        source = chain.rows
        assert source.uniform("ids") == ((size,), corpus.dtype)
        order = np.random.default_rng(0).integers(0, len(source), 9)
        out = np.empty((9, size), corpus.dtype)
        got = source.gather("ids", order, out)
        assert got.values is out  # type: ignore[union-attr]
        assert out.tolist() == [expected[i] for i in order]
    finally:
        spans.MAPPED_SHARE = limit


@given(st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 9), st.none() | st.just(0))
def test_a_source_that_only_gathers(lengths: list[int | None], size: int, eos: int | None) -> None:
    documents = [None if n is None else np.arange(100 * i + 1, 100 * i + 1 + n, dtype=np.int64) for i, n in enumerate(lengths)]
    source = FakeSource({"ids": documents}, definitions=FakeSource({"ids": [np.zeros(1, np.int64)]}).definitions)
    expected = blocks(documents, size, eos)
    chain = dataloader(source).tokens(size, eos=eos)
    if expected:
        assert loaded(chain.batch(2).numpy()) == expected
    else:
        with pytest.raises(InvalidInput):
            chain.numpy()


@pytest.mark.parametrize("eos", [None, 0])
def test_documents_of_one_length(eos: int | None) -> None:
    ds = lakefmt.empty(f"mem://{uuid.uuid4().hex}")
    ds.create_tensor("ids", dtype="int32", shape=(50,))
    data = np.arange(2000, dtype=np.int32).reshape(40, 50)
    ds.extend({"ids": data[:25]})
    ds.commit("one")
    ds.extend({"ids": data[25:]})
    assert loaded(ds.dataloader().tokens(64, eos=eos).batch(5).numpy()) == blocks(list(data), 64, eos)
    if eos is None:
        assert len(ds.dataloader().tokens(64).rows._stream().runs.begin) == 2, "documents that lie end to end are one run"


def test_ids_of_four_bytes_with_eos_are_one_run_a_page() -> None:
    ds, documents = Corpus([[3, 4] * 20], scale=100).build()
    source = ds.dataloader().tokens(1000, eos=7).rows
    assert len(source._stream().runs.begin) < len(documents)
    assert loaded(ds.dataloader().tokens(1000, eos=7).batch(4).numpy()) == blocks(documents, 1000, 7)


def test_more_blocks_than_bounds_are_kept_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ds, documents = CORPUS.build()
    monkeypatch.setattr("lakefmt.loaders.tokens._BOUNDS_MAX", 0)
    assert loaded(ds.dataloader().tokens(4, eos=0).batch(3).numpy()) == blocks(documents, 4, 0)


@pytest.mark.parametrize("scale", [1, 100])
def test_files_of_a_folder_and_of_an_object_store(tmp_path: Path, scale: int) -> None:
    for url in (str(tmp_path / "here"), f"memory://{uuid.uuid4().hex}"):
        corpus = Corpus(CORPUS.fragments, scale=scale, updates=CORPUS.updates, deletes=CORPUS.deletes)
        ds, documents = corpus.build(url)
        chain = ds.dataloader().tokens(4 * scale, eos=0)
        expected = blocks(documents, 4 * scale, 0)
        assert loaded(chain.batch(3).numpy()) == expected
        for mode in ("global", "window"):
            shuffled = loaded(chain.batch(3).shuffle(seed=2, mode=mode).numpy())
            assert sorted(shuffled) == sorted(expected)


def test_a_dtype_widened_since() -> None:
    ds, documents = Corpus([[5, 7], [3]], dtype="uint16", scale=100).build()
    ds.alter_tensor("ids", dtype="int32")
    ds.extend({"ids": [np.arange(70_000, 70_300)], "label": [1.0]})
    documents.append(np.arange(70_000, 70_300))
    assert loaded(ds.dataloader().tokens(128, eos=1).batch(3).numpy()) == blocks(documents, 128, 1)


def test_a_view_of_buffered_rows_and_a_tensor_of_few_rows() -> None:
    ds = lakefmt.empty(f"mem://{uuid.uuid4().hex}")
    ds.create_tensor("text", htype="text")
    ds.create_tensor("ids", dtype="int32")
    ds.extend({"text": ["a", "b", "c"]}, skip_ok=True)
    ds["ids"].extend([[1, 2, 3], [4, 5]])
    assert loaded(ds[0:2].dataloader().tokens(2).batch(9).numpy()) == [[1, 2], [3, 4]]
    ds.commit("one of three rows has no ids")
    assert loaded(ds.dataloader().tokens(2).batch(9).numpy()) == [[1, 2], [3, 4]]


def test_queries_select_documents_before_or_after() -> None:
    ds = lakefmt.empty(f"mem://{uuid.uuid4().hex}")
    ds.create_tensor("ids", dtype="int32")
    ds.create_tensor("kind", dtype="float32")
    ds.extend({"ids": [[1, 2, 3], [4, 5], [6, 7, 8, 9]], "kind": np.array([0, 1, 0], np.float32)})
    expected = [[1, 2], [3, 6], [7, 8]]
    assert loaded(ds.dataloader().tokens(2).query("kind == 0").batch(2).numpy()) == expected
    assert loaded(ds.dataloader().query("kind == 0").tokens(2).batch(2).numpy()) == expected
    assert loaded(ds.query("kind == 0").dataloader().tokens(2).batch(2).numpy()) == expected
    computed = ds.query("select ids * 2 as twice")
    assert [b["twice"].tolist() for b in computed.dataloader().tokens(4, tensor="twice").batch(2).numpy()] == [
        [[2, 4, 6, 8], [10, 12, 14, 16]]
    ]


def test_every_order_rank_and_resume() -> None:
    ds, documents = Corpus([[13, 8, None, 21], [34, 5]]).build()
    expected = blocks(documents, 3, 0)

    def loader(**options: Any) -> Any:
        return ds.dataloader().tokens(3, eos=0).batch(2).shuffle(seed=5).numpy(**options)

    epochs = [loaded(running) for running in [loader()] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(expected)
    assert epochs[0] != epochs[1] != expected
    ranks = [loaded(loader(shard=(rank, 3))) for rank in range(3)]
    assert len({len(r) for r in ranks}) == 1
    assert {tuple(b) for r in ranks for b in r} == {tuple(b) for b in expected}
    for stop in range(1, len(expected) // 2):
        running, seen = loader(), []
        for number, batch in enumerate(running, 1):
            seen += batch["ids"].tolist()
            if number == stop:
                break
        state = json.loads(json.dumps(running.state_dict()))
        assert len(json.dumps(state)) < 1024
        resumed = loader()
        resumed.load_state_dict(state)
        assert seen + loaded(resumed) == epochs[0]
        assert loaded(resumed) == epochs[1]


def test_a_state_of_other_blocks_is_refused() -> None:
    ds, _ = CORPUS.build()
    state = ds.dataloader().tokens(4).batch(2).numpy().state_dict()
    chain = ds.dataloader()
    for other in (chain.tokens(5), chain.tokens(4, eos=0), chain.tokens(4, overlap=1), chain):
        with pytest.raises(InvalidInput, match="other data"):
            other.batch(2).numpy().load_state_dict(state)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_worker_processes(tmp_path: Path, context: str) -> None:
    ds, documents = Corpus([[13, 8, None, 21], [34, 5]], scale=100).build(str(tmp_path / "ds"))
    loader = ds.dataloader().tokens(300, eos=0).batch(3).pytorch(2, multiprocessing_context=context)
    assert loaded(loader) == blocks(documents, 300, 0)


def test_torch_tensorflow_and_map_style() -> None:
    torch, tf = pytest.importorskip("torch"), pytest.importorskip("tensorflow")
    ds, documents = CORPUS.build()
    expected = blocks(documents, 4)
    for batch in ds.dataloader().tokens(4).batch(2).pytorch():
        assert batch["ids"].dtype == torch.int32
    data = ds.dataloader().tokens(4).batch(2, drop_last=True).tensorflow()
    assert data.element_spec["ids"] == tf.TensorSpec((None, 4), "int32")
    assert loaded({"ids": b["ids"].numpy()} for b in data) == expected[: len(expected) // 2 * 2]
    assert [row["ids"].tolist() for row in ds.dataloader().tokens(4).pytorch()] == expected
    mapped = map_dataset(TokenBlocks(ds.source(), None, 4))
    assert mapped[-1]["ids"].tolist() == expected[-1]


def test_pickled_it_looks_up_anew() -> None:
    source = TokenBlocks(FakeSource({"ids": [np.arange(5), np.arange(7)]}), "ids", 4)
    assert len(source) == 3
    again = pickle.loads(pickle.dumps(source))
    assert again._found is None
    assert again.gather("ids", np.arange(3)).values.tolist() == source.gather("ids", np.arange(3)).values.tolist()
    assert again.identity() == source.identity()


def test_wrong_arguments() -> None:
    ds, _ = CORPUS.build()
    chain = ds.dataloader()
    for size in (0, -1, 2.5, "4", True):
        with pytest.raises(InvalidInput, match="block_size"):
            chain.tokens(size)
    for overlap in (-1, 4, 5):
        with pytest.raises(InvalidInput, match="overlap"):
            chain.tokens(4, overlap=overlap)
    for eos in (-(2**31) - 1, 2**31, "x", 1.0):
        with pytest.raises(InvalidInput, match="eos"):
            chain.tokens(4, eos=eos)
    with pytest.raises(DtypeError, match="float32"):
        chain.tokens(4, tensor="label")
    with pytest.raises(NoSuchTensor, match="did you mean 'ids'"):
        chain.tokens(4, tensor="idss")
    with pytest.raises(InvalidInput, match="already said"):
        chain.tokens(4).tokens(4)
    with pytest.raises(InvalidInput, match="not both"):
        chain.tokens(4).pack(4)
    with pytest.raises(InvalidInput, match="numbers"):
        chain.tokens(4).sample_by("label").batch(2).numpy()
    weights = np.zeros(len(chain.tokens(4).rows))
    weights[1] = 1
    assert len(set(map(tuple, loaded(chain.tokens(4).sample_by(weights).batch(2).numpy())))) == 1
    assert repr(chain.tokens(4).batch(2)) == "Loader(8 rows; blocks of 4 tokens of 'ids'; tensors ids; batch_size 2)"


def test_tensors_that_are_no_documents() -> None:
    ds = lakefmt.empty(f"mem://{uuid.uuid4().hex}")
    ds.create_tensor("a", dtype="int32")
    ds.create_tensor("b", dtype="int32")
    ds.create_tensor("square", dtype="int32")
    ds.create_tensor("scalar", dtype="int32")
    chain = ds.dataloader()
    with pytest.raises(InvalidInput, match="which tensor"):
        chain.tokens(4)
    with pytest.raises(InvalidInput, match="not one token"):
        chain.tokens(4, tensor="a").batch(1).numpy()
    ds.append({"a": [1, 2], "b": [1], "square": [[1, 2]], "scalar": 3})
    chain = ds.dataloader()
    with pytest.raises(InvalidInput, match="'a', 'b'"):
        chain.tokens(4)
    for name in ("square", "scalar"):
        with pytest.raises(ShapeError, match=name):
            chain.tokens(4, tensor=name)
    with pytest.raises(InvalidInput, match="2 tokens in 1 document"):
        chain.tokens(4, tensor="a").batch(1).numpy()
    ds.append({"a": [[1, 2]], "b": [1], "square": [[1, 2]], "scalar": 3})
    with pytest.raises(ShapeError, match=r"row 1 of tensor 'a' has shape \(1, 2\)"):
        ds.dataloader().tokens(1, tensor="a").batch(1).numpy()
    assert loaded_a(ds[0:1]) == [[1], [2]], "a view that leaves it out"
    with pytest.raises(ShapeError, match="row 1"):
        dataloader(FakeSource({"a": [np.arange(3), np.zeros((2, 2), int)]})).tokens(2, tensor="a").batch(1).numpy()


def loaded_a(rows: Any) -> list[list[int]]:
    return [block for batch in rows.dataloader().tokens(1, tensor="a").batch(9).numpy() for block in batch["a"].tolist()]


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("lost", [False, True])
def test_a_file_that_was_cut_or_lost(tmp_path: Path, lost: bool, by_position: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_position:
        monkeypatch.setattr(spans, "MAPPED_SHARE", 1 << 60)
    Corpus([[30, 40]], scale=100).build(str(tmp_path / "ds"))
    largest = max((tmp_path / "ds" / "data").rglob("*.parquet"), key=lambda p: p.stat().st_size)
    if lost:
        largest.unlink()
    else:
        largest.write_bytes(largest.read_bytes()[:-600])
    with pytest.raises(Corrupt, match=r"is missing|truncated|does not match"):
        loaded(lakefmt.load(str(tmp_path / "ds")).dataloader().tokens(300).batch(2).numpy())


def test_stream_of_the_reference_is_what_it_says() -> None:
    assert stream([np.array([1, 2]), None, np.array([], int), np.array([3])], 9) == [1, 2, 9, 3, 9]
    assert blocks([np.arange(5)], 2, overlap=1) == [[0, 1], [1, 2], [2, 3], [3, 4]]
