"""Documents of token ids in real datasets, and the plain Python that says what blocks of them are."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

import lakefmt

#: Lengths of documents; ``None``: missing.
Lengths = Sequence[int | None]


@dataclass
class Corpus:
    """Fragments of documents, then rows updated, then rows deleted, then rows picked as a view.

    A dataset made of it lies in memory. ``scale`` multiplies lengths: of 100, documents are large values in a file of their own.
    """

    fragments: list[Lengths]
    dtype: str = "int32"
    scale: int = 1
    updates: dict[int, int | None] = field(default_factory=dict)
    deletes: tuple[int, ...] = ()
    view: tuple[int, ...] | None = None

    def build(self, url: str = "", **options: Any) -> tuple[Any, list[Any]]:
        """The dataset or view, and its documents (``None``: missing)."""
        ds = lakefmt.empty(url or f"mem://{uuid.uuid4().hex}", **options)
        ds.create_tensor("ids", dtype=self.dtype)
        ds.create_tensor("label", dtype="float32")
        counter, documents = 0, []

        def make(length: int | None) -> Any:
            nonlocal counter
            if length is None:
                return None
            n = length * self.scale
            made = (np.arange(counter, counter + n) % 30_000 + 1).astype(self.dtype)
            counter += n
            return made

        for lengths in self.fragments:
            some = [make(n) for n in lengths]
            documents += some
            if some:
                ds.extend({"ids": some, "label": [0.5] * len(some)})
                ds.commit("more")
        for row, length in self.updates.items():
            documents[row % len(documents)] = made = make(length)
            ds["ids"][row % len(documents)] = made
        ds.flush()
        gone = sorted({row % len(documents) for row in self.deletes})
        if gone and len(gone) < len(documents):
            ds.pop(gone)
            documents = [d for i, d in enumerate(documents) if i not in gone]
        if self.view is not None:
            rows = [row % len(documents) for row in self.view]
            return ds[rows], [documents[row] for row in rows]
        return ds, documents


def corpora(most: int = 12) -> st.SearchStrategy[Corpus]:
    """Any corpus."""
    length = st.none() | st.integers(0, most)
    rows = st.integers(0, 1000)
    return st.builds(
        Corpus,
        fragments=st.lists(st.lists(length, max_size=6), min_size=1, max_size=3).filter(any),
        dtype=st.sampled_from(["int32", "uint16", "int64"]),
        scale=st.sampled_from([1, 100]),
        updates=st.dictionaries(rows, length, max_size=2),
        deletes=st.lists(rows, max_size=2).map(tuple),
        view=st.none() | st.lists(rows, min_size=1, max_size=6).map(tuple),
    )


def stream(documents: Sequence[Any], eos: int | None) -> list[int]:
    """All documents end to end."""
    tokens: list[int] = []
    for document in documents:
        if document is not None and len(document):
            tokens += document.tolist()
            tokens += [] if eos is None else [eos]
    return tokens


def blocks(documents: Sequence[Any], size: int, eos: int | None = None, overlap: int = 0) -> list[list[int]]:
    """The blocks of the stream."""
    tokens = stream(documents, eos)
    return [tokens[i : i + size] for i in range(0, len(tokens) - size + 1, size - overlap)]
