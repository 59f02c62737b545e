"""Checks stored files against the checksums in the log, reading every byte."""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

from lakefmt.errors import Corrupt, NoSuchObject
from lakefmt.fragment.meta import ColumnFile
from lakefmt.storage import Store

_CHUNK_NBYTES = 8 << 20


def verify_files(store: Store, files: Iterable[ColumnFile]) -> int:
    """Compare files with their recorded size and XXH64; returns the bytes read.

    Raises:
        Corrupt: some file is missing or differs; the message names all of them.
    """
    bad: list[str] = []
    total = 0
    for file in files:
        digest, size = xxhash.xxh64(), 0
        try:
            while size < file.size:
                data = store.get_range(file.key, size, min(_CHUNK_NBYTES, file.size - size))
                if not data:
                    break
                digest.update(data)
                size += len(data)
            longer = bool(store.get_range(file.key, file.size, 1)) if size == file.size and store.is_local else False
        except NoSuchObject:
            bad.append(f"{file.key} is missing")
            continue
        total += size
        if size < file.size or longer:
            bad.append(f"{file.key} has {'more' if longer else size} bytes instead of {file.size}")
        elif digest.hexdigest() != file.xxh64:
            bad.append(f"{file.key} does not match its checksum")
    if bad:
        raise Corrupt(f"{store.url}: {len(bad)} damaged: {'; '.join(bad[:10])}{' …' if len(bad) > 10 else ''}. Restore from a copy")
    return total
