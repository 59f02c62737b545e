"""Damaged files give a Corrupt error or the right samples: never wrong ones, never another exception."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fragment_tools import Written, corrupt_or_right, damaged, read, read_all, tensor, write

from lakefmt.errors import Corrupt
from lakefmt.storage import LocalStore, MemoryStore

_NAMES = ("scalars", "nullable", "lists", "ragged", "text", "flat floats", "flat bytes", "blobs", "documents", "jpegs")


@pytest.fixture(scope="module")
def files(jpeg_bytes: bytes) -> dict[str, Written]:
    """One fragment a layout."""
    rng = np.random.default_rng(3)
    return {
        "scalars": write(tensor(dtype="uint32"), rng.integers(0, 1 << 32, 50, np.uint32)),
        "nullable": write(tensor(dtype="int16"), [None if i % 3 == 0 else np.int16(i - 9) for i in range(20)]),
        "lists": write(tensor(dtype="float32"), rng.random((20, 5), np.float32)),
        "ragged": write(tensor(dtype="uint16"), [np.arange(i % 4, dtype=np.uint16) for i in range(20)]),
        "text": write(tensor("text"), [f"text {i}" for i in range(20)]),
        "flat floats": write(tensor(dtype="float32"), rng.random((12, 40), np.float32)),
        "flat bytes": write(tensor(dtype="uint8"), rng.integers(0, 255, (12, 20, 10), np.uint8)),
        "blobs": write(tensor(dtype="uint8"), [rng.integers(0, 255, (70, 40 + i), np.uint8) for i in range(30)]),
        "documents": write(tensor("text"), [f"document {i} " * 500 for i in range(30)]),
        "jpegs": write(tensor("image", compression="jpeg"), [jpeg_bytes, None, jpeg_bytes + b"x"]),
    }


def _targets(written: Written) -> list[Any]:
    """Every file of the fragment: the samples', and the one with their shapes."""
    return list(written.files)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("name", _NAMES)
def test_truncation(files: dict[str, Written], name: str, remote: bool) -> None:
    written = files[name]
    for file in _targets(written):
        data = written.store.get(file.key)
        lengths = {0, 1, 3, 4, 11, 12, len(data) - 1, len(data) - 4, len(data) - 8, file.index_start}
        lengths |= set(random.Random(name).sample(range(len(data)), 8))
        for length in sorted(lengths):
            outcome = corrupt_or_right(written, damaged(written, file.key, data[:length], remote=remote))
            assert outcome == "corrupt", f"cut to {length} of {len(data)} bytes"


def test_a_column_fetched_alone_is_checked_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bit of the first page's header, and some of the rest: page checksums cover no header."""
    for module in ("read", "write"):
        monkeypatch.setattr(f"lakefmt.fragment.{module}.WHOLE_NBYTES_MAX", 1000)
    written = write(tensor(dtype="int64"), np.random.default_rng(0).integers(0, 1 << 60, 400))
    (file,) = written.files
    data = written.store.get(file.key)
    assert file.size > 1000
    for bit in (*range(8 * 4, 8 * 80), *random.Random(1).sample(range(8 * 80, 8 * file.index_start), 200)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert corrupt_or_right(written, damaged(written, file.key, bytes(flipped), remote=True)) == "corrupt", bit


@pytest.mark.parametrize("name", _NAMES)
def test_truncation_on_disk(files: dict[str, Written], name: str, tmp_path: Path) -> None:
    written = files[name]
    for file in _targets(written):
        data = written.store.get(file.key)
        for length in (0, 1, 12, len(data) // 2, len(data) - 1):
            store = LocalStore(str(tmp_path / f"{file.xxh64}-{length}"))
            for f in written.files:
                store.put(f.key, data[:length] if f is file else written.store.get(f.key))
            assert corrupt_or_right(written, store) == "corrupt", f"cut to {length} of {len(data)} bytes"


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("name", _NAMES)
def test_longer_than_written(files: dict[str, Written], name: str, remote: bool) -> None:
    written = files[name]
    for file in _targets(written):
        data = written.store.get(file.key)
        corrupt_or_right(written, damaged(written, file.key, data + b"PAR1", remote=remote))


def _flips(written: Written, name: str, remote: bool, per_file: int | None) -> list[str]:
    wrong = []
    for file in _targets(written):
        data = written.store.get(file.key)
        bits = range(file.index_start * 8, len(data) * 8)
        chosen = bits if per_file is None else sorted(random.Random(name).sample(bits, min(per_file, len(bits))))
        for bit in chosen:
            bad = bytearray(data)
            bad[bit // 8] ^= 1 << bit % 8
            try:
                corrupt_or_right(written, damaged(written, file.key, bytes(bad), remote=remote))
            except Exception as e:
                wrong.append(f"bit {bit % 8} of byte {bit // 8} ({len(data) - bit // 8} from the end): {e!r:.150}")
    return wrong


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("name", _NAMES)
def test_single_bits_of_index_and_footer(files: dict[str, Written], name: str, remote: bool) -> None:
    wrong = _flips(files[name], name, remote, 25)
    assert not wrong, f"{len(wrong)} flips, first: {wrong[:3]}"


@pytest.mark.nightly
@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("name", _NAMES)
def test_every_bit_of_index_and_footer(files: dict[str, Written], name: str, remote: bool) -> None:
    wrong = _flips(files[name], name, remote, None)
    assert not wrong, f"{len(wrong)} flips, first: {wrong[:3]}"


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("name", ["flat floats", "flat bytes", "blobs", "documents", "jpegs"])
def test_single_bits_of_page_headers(files: dict[str, Written], name: str, remote: bool) -> None:
    from lakefmt.fragment.pages import read_page_table

    written = files[name]
    file, _ = written.entry
    data = written.store.get(file.key)
    table = read_page_table(data[file.index_start :], file.index_start, "f")
    for page in {0, len(table.offset) - 1}:
        for bit in range(0, 24 * 8, 3):
            bad = bytearray(data)
            bad[int(table.offset[page]) + bit // 8] ^= 1 << bit % 8
            corrupt_or_wrong_value_only(written, damaged(written, file.key, bytes(bad), remote=remote))


def corrupt_or_wrong_value_only(written: Written, store: Any) -> None:
    """Headers end within the flipped bytes and values begin there: values may differ, but shapes may not, nor other errors come."""
    try:
        got = read(written, store=store)
    except Corrupt:
        return
    for g, e in zip(got, written.samples, strict=True):
        assert (g is None) == (e is None)
        assert g is None or isinstance(g, (str, bytes)) or g.shape == np.shape(e)


@pytest.mark.parametrize("name", _NAMES)
def test_swapped_with_another_file(files: dict[str, Written], name: str) -> None:
    written = files[name]
    other = files["lists" if name != "lists" else "text"]
    for file in _targets(written):
        bad = other.store.get(other.files[0].key)
        outcome = corrupt_or_right(written, damaged(written, file.key, bad, remote=False))
        assert outcome == "corrupt"


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("name", _NAMES)
def test_missing_file(files: dict[str, Written], name: str, remote: bool) -> None:
    written = files[name]
    for gone in _targets(written):
        store = damaged(written, gone.key, b"", remote=remote)
        store.delete([gone.key])
        with pytest.raises(Corrupt, match=f"{gone.key}.*missing.*restore"):
            read_all(written, store)


def test_the_message_names_file_and_remedy(files: dict[str, Written]) -> None:
    written = files["blobs"]
    file, _ = written.entry
    data = written.store.get(file.key)
    with pytest.raises(Corrupt, match=f"{file.key}.*(restore|copy)"):
        read(written, store=damaged(written, file.key, data[:-100], remote=False))


def test_an_entry_that_claims_other_rows() -> None:
    import msgspec

    for definition, values in ((tensor(dtype="int64"), np.arange(5)), (tensor(dtype="uint8"), np.zeros((5, 200), np.uint8))):
        written = write(definition, values, store=MemoryStore(f"claims-{definition.dtype}"))
        file, entry = written.entry
        more = msgspec.structs.replace(file, fields=(msgspec.structs.replace(entry, rows=9),))
        written.files = tuple(more if f is file else f for f in written.files)
        with pytest.raises(Corrupt, match=r"5 rows.*9"):
            read(written)
