"""``pack()``: whole documents in rows of at most ``max_len`` tokens, with what attention needs to keep to one document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_fake import FakeSource
from token_tools import Corpus, corpora

from lakefmt.errors import DtypeError, InvalidInput
from lakefmt.loaders import dataloader
from lakefmt.loaders.packing import Packs, first_fit

CORPUS = Corpus([[5, 0, 7, None, 3], [1, 19], [4, None, 2]], updates={2: 11}, deletes=(4,))
KEYS = ["ids", "ids_position_ids", "ids_documents", "cu_seqlens", "max_seqlen"]


def reference(documents: Sequence[Any], max_len: int, eos: int | None, window: int) -> list[list[list[int]]]:
    """Packs as lists of the documents in them, by the plainest first fit."""
    whole: list[tuple[int, list[int]]] = []
    rest: list[tuple[int, list[int]]] = []
    for document in documents:
        if document is None or not len(document):
            continue
        tokens = [*document.tolist(), *([] if eos is None else [eos])]
        for begin in range(0, len(tokens), max_len):
            piece = tokens[begin : begin + max_len]
            (whole if len(piece) == max_len else rest).append((len(whole) + len(rest), piece))
    packs: list[tuple[int, list[list[int]]]] = [(number, [piece]) for number, piece in whole]
    for begin in range(0, len(rest), window):
        bins: list[tuple[int, list[list[int]]]] = []
        for number, piece in rest[begin : begin + window]:
            fits = (b for _, b in bins if sum(map(len, b)) + len(piece) <= max_len)
            found = next(fits, None)
            if found is None:
                bins.append((number, [piece]))
            else:
                found.append(piece)
        packs += bins
    return [pieces for _, pieces in sorted(packs, key=lambda p: p[0])]


def columns(packs: list[list[list[int]]], max_len: int, pad: int) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Tokens, position ids and document numbers of packs."""
    out: tuple[list[list[int]], list[list[int]], list[list[int]]] = ([], [], [])
    for pieces in packs:
        room = max_len - sum(map(len, pieces))
        out[0].append([t for p in pieces for t in p] + [pad] * room)
        out[1].append([i for p in pieces for i in range(len(p))] + [0] * room)
        out[2].append([d for d, p in enumerate(pieces) for _ in p] + [-1] * room)
    return out


def bounds(numbers: Sequence[Sequence[int]]) -> list[int]:
    """Where sequences of a batch laid end to end begin, and the number of its tokens."""
    flat = [(row, number) for row, some in enumerate(numbers) for number in some]
    return [i for i in range(len(flat)) if i == 0 or flat[i] != flat[i - 1]] + [len(flat)]


@settings(max_examples=60)
@given(corpora(), st.integers(1, 30), st.none() | st.integers(0, 9), st.integers(1, 8), st.integers(0, 3))
def test_packs_are_those_of_first_fit(corpus: Corpus, max_len: int, eos: int | None, window: int, pad: int) -> None:
    rows, documents = corpus.build()
    max_len *= corpus.scale if corpus.scale < 50 else corpus.scale // 10
    packs = reference(documents, max_len, eos, window)
    chain = rows.dataloader().pack(max_len, eos=eos, pad=pad, window=window)
    if not packs:
        with pytest.raises(InvalidInput, match="not one token"):
            chain.numpy()
        return
    expected = columns(packs, max_len, pad)
    got: list[list[list[int]]] = [[], [], []]
    for batch in chain.batch(2).numpy():
        assert list(batch.keys()) == KEYS
        for column, key in zip(got, KEYS, strict=False):
            column += batch[key].tolist()
        assert batch["ids"].dtype == corpus.dtype
        assert {batch[key].dtype.name for key in KEYS[1:4]} == {"int32"}
        assert batch["cu_seqlens"].tolist() == bounds(batch["ids_documents"].tolist())
        assert batch["max_seqlen"] == max(np.diff(batch["cu_seqlens"]))
    assert tuple(got) == expected
    source = chain.rows
    assert len(source) == len(packs)
    assert source.filled == pytest.approx(sum(len(p) for pack in packs for p in pack) / (len(packs) * max_len))
    order = np.random.default_rng(0).integers(0, len(source), 5)
    for column, name in zip(expected, source.definitions, strict=True):
        out = np.empty((5, max_len), source.definitions[name].dtype)
        assert source.gather(name, order, out).values is out
        assert out.tolist() == [column[i] for i in order]


@given(st.lists(st.integers(1, 20), max_size=60), st.integers(1, 9))
def test_first_fit_is_first_fit(sizes: list[int], window: int) -> None:
    expected = []
    for begin in range(0, len(sizes), window):
        room: list[int] = []
        for size in sizes[begin : begin + window]:
            at = next((i for i, left in enumerate(room) if left >= size), len(room))
            room[at:] = room[at:] or [20]
            room[at] -= size
            expected.append(begin + at)
    assert first_fit(np.array(sizes, np.int64), 20, window).tolist() == expected


def test_many_windows_are_packed_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = np.random.default_rng(0).integers(1, 100, 500)
    at_once = first_fit(sizes, 100, 16)
    monkeypatch.setattr("lakefmt.loaders.packing._TREE_NUMBERS", 64)
    assert first_fit(sizes, 100, 16).tolist() == at_once.tolist()


@pytest.mark.parametrize("eos", [None, 0])
def test_attention_by_cu_seqlens_is_attention_by_the_mask(eos: int | None) -> None:
    """A reference attention over the batch laid end to end, sequence by sequence, against one over rows with the document mask."""
    torch = pytest.importorskip("torch")
    attend = torch.nn.functional.scaled_dot_product_attention
    ds, _ = CORPUS.build()
    generator = torch.Generator().manual_seed(0)
    for batch in ds.dataloader().pack(16, eos=eos).batch(2).pytorch():
        ids, numbers, cu = batch["ids"], batch["ids_documents"], batch["cu_seqlens"]
        assert isinstance(batch["max_seqlen"], int)
        q, k, v = torch.randn((3, *ids.shape, 8), generator=generator)
        apart = [attend(*(x.reshape(-1, 8)[a:b] for x in (q, k, v)), is_causal=True) for a, b in pairwise(cu)]
        by_bounds = torch.cat(apart).reshape(q.shape)
        same = numbers[:, :, None] == numbers[:, None, :]
        causal = torch.ones(16, 16, dtype=torch.bool).tril()
        by_mask = attend(q, k, v, attn_mask=same & causal)
        torch.testing.assert_close(by_bounds, by_mask)
        # what a token can see is its own document up to itself
        real = numbers >= 0
        sees = (same & causal & real[:, None, :] & real[:, :, None]).sum(-1)
        assert torch.equal(sees[real], batch["ids_position_ids"][real] + 1)


def test_whole_documents_come_back() -> None:
    ds, documents = CORPUS.build()
    seen = []
    for batch in ds.dataloader().pack(32, eos=0).batch(2).shuffle(seed=3).numpy():
        flat, cu, numbers = batch["ids"].reshape(-1), batch["cu_seqlens"], batch["ids_documents"].reshape(-1)
        seen += [flat[a:b].tolist() for a, b in pairwise(cu) if numbers[a] >= 0]
    assert sorted(seen) == sorted([*d.tolist(), 0] for d in documents if d is not None and len(d))


def test_every_epoch_has_the_same_packs_in_another_order_and_resumes() -> None:
    ds, _ = CORPUS.build()

    def loader(**options: Any) -> Any:
        return ds.dataloader().pack(12, eos=0).batch(1).shuffle(seed=4).numpy(**options)

    def packs(batches: Any) -> list[str]:
        return [str({k: np.asarray(v).tolist() for k, v in b.items()}) for b in batches]

    running = loader()
    first, second = packs(running), packs(running)
    assert sorted(first) == sorted(second)
    assert first != second
    for stop in range(1, len(first)):
        running, seen = loader(), []
        for batch in running:
            seen += packs([batch])
            if len(seen) == stop:
                break
        resumed = loader()
        resumed.load_state_dict(json.loads(json.dumps(running.state_dict())))
        assert seen + packs(resumed) == first
    ranks = [packs(loader(shard=(rank, 2))) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1])
    assert set(first) == {*ranks[0], *ranks[1]}
    state = loader().state_dict()
    for other in (ds.dataloader().pack(12), ds.dataloader().pack(12, eos=0, window=2), ds.dataloader().tokens(12, eos=0)):
        with pytest.raises(InvalidInput, match="other data"):
            other.batch(1).shuffle(seed=4).numpy().load_state_dict(state)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_rows_workers_and_tensorflow() -> None:
    pytest.importorskip("torch")
    tf = pytest.importorskip("tensorflow")
    source = FakeSource({"ids": [np.arange(1, 4), np.arange(5), None, np.arange(7)]})
    chain = dataloader(source).pack(8)
    one, two, three = columns(reference(source.columns["ids"], 8, None, 8), 8, 0)
    rows = list(chain.pytorch())
    assert [list(r.keys()) for r in rows] == [KEYS[:3]] * len(one), "bounds are of batches"
    assert [r["ids_documents"].tolist() for r in rows] == three
    batches = list(chain.batch(2).pytorch(1, multiprocessing_context="fork"))
    assert [list(b.keys()) for b in batches] == [KEYS]
    assert batches[0]["ids_position_ids"].tolist() == two
    lent = next(iter(chain.batch(2).pytorch().dataset))  # as another DataLoader takes it
    assert {name: value.tolist() for name, value in lent.items()} == dict(zip(KEYS, (one[0], two[0], three[0]), strict=False))
    made = list(chain.batch(2).tensorflow())
    assert [sorted(b) for b in made] == [sorted(KEYS[:3])]
    assert made[0]["ids"].dtype == tf.int64
    assert made[0]["ids"].numpy().tolist() == one


def test_only_some_columns_and_functions_of_the_batch() -> None:
    chain = dataloader(FakeSource({"ids": [np.arange(1, 4), np.arange(5)]})).pack(8).batch(2)
    (batch,) = chain.numpy(tensors=["ids"])
    assert list(batch.keys()) == ["ids"]
    (seen,) = chain.map_batches(lambda b: {"keys": list(b.keys())}).numpy()
    assert seen["keys"] == KEYS


def test_wrong_arguments() -> None:
    ds, _ = CORPUS.build()
    chain = ds.dataloader()
    for wrong in ({"max_len": 0}, {"max_len": 2.5}, {"window": 0}, {"window": 1 << 30}, {"pad": 2**31}, {"eos": "x"}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            chain.pack(**{"max_len": 8, **wrong})
    with pytest.raises(DtypeError):
        chain.pack(8, tensor="label")
    with pytest.raises(InvalidInput, match="already said"):
        chain.pack(4).pack(4)
    with pytest.raises(InvalidInput, match="not both"):
        chain.pack(4).tokens(4)
    assert repr(Packs(ds.source(), None, 8)) == "packs of 8 tokens of 'ids'"
