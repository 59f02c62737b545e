"""Memory keeps the promises of the port, within one process."""

from __future__ import annotations

import uuid

from lakefmt.storage import MemoryStore
from lakefmt.testing import StoreConformance


class TestMemoryStore(StoreConformance):
    """The conformance suite."""

    shared = False

    def make_store(self) -> MemoryStore:
        """A place nobody else has."""
        return MemoryStore(uuid.uuid4().hex)


def test_one_name_is_one_place() -> None:
    name = uuid.uuid4().hex
    MemoryStore(name).put("k", b"v")
    assert MemoryStore(f"/{name}/").get("k") == b"v"
    assert list(MemoryStore(name + "x").list("")) == []


def test_what_is_put_is_copied() -> None:
    store, data = MemoryStore(uuid.uuid4().hex), bytearray(b"abc")
    store.put("p", memoryview(data))
    assert store.put_if_absent("q", memoryview(data))
    data[:] = b"xyz"
    assert (store.get("p"), store.get("q")) == (b"abc", b"abc")
