"""Functions that make token ids of texts, where a spawned process can import them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np


def codes(text: str) -> list[int]:
    """Code points of one text."""
    return [ord(c) for c in text]


def lists(texts: Sequence[str]) -> list[list[int]]:
    return [codes(t) for t in texts]


def arrays(texts: Sequence[str]) -> list[Any]:
    return [np.array(codes(t), np.int64) for t in texts]


def dicts(texts: Sequence[str]) -> dict[str, Any]:
    return {"input_ids": lists(texts), "attention_mask": [[1] * len(t) for t in texts]}


class Encoding:
    """As ``tokenizers`` has it."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids


def encodings(texts: Sequence[str]) -> list[Encoding]:
    return [Encoding(codes(t)) for t in texts]


def picky(texts: Sequence[str]) -> list[list[int]]:
    """Cannot do one text."""
    if any("bad" in t for t in texts):
        raise KeyError("no such token")
    return lists(texts)


def dying(texts: Sequence[str]) -> list[list[int]]:
    os._exit(3)
