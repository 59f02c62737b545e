"""Version objects as bytes: a line of plain JSON (the head), then the zstd-compressed JSON of the state.

The head ends with a checksum of itself and carries the body's, so damage anywhere is found before anything is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
import pyarrow as pa
import xxhash

from lakefmt.errors import Corrupt, InvalidInput, UnsupportedFormat, VersionExpired
from lakefmt.fragment.meta import INLINE_FOLDER, ColumnFile
from lakefmt.storage import Bytes
from lakefmt.versioning.records import FORMAT_VERSION, READER_FEATURES, Head, State, Version

_NOTHING: Mapping[str, bytes] = MappingProxyType({})
_CHECK = b',"check":"'
#: What stands in place of the body when a version has expired. The object stays, for its number must stay taken.
EXPIRED = b"expired\n"
_HEAD_NBYTES_MAX = 16 << 20
_BODY_NBYTES_MAX = 1 << 31


def encode_version(head: Head, state: State, inline: Mapping[str, bytes] = _NOTHING) -> tuple[bytes, Version]:
    """The bytes of a version object, and the version as a reader would see it.

    Args:
        inline: the files of rows that lie in the object, by key; those that the state names are taken.
    """
    own = {f.key: inline[f.key] for f in inline_files(state)}
    try:
        raw = msgspec.json.encode(state)
        msgspec.json.decode(raw, type=State)  # never put what no reader would accept
        msgspec.json.decode(msgspec.json.encode(head), type=Head)
    except (UnicodeEncodeError, TypeError, ValueError) as e:
        raise InvalidInput(f"a version cannot hold this message, author, name or metadata: {e}; nothing was committed") from e
    body = pa.compress(raw, codec="zstd", asbytes=True)
    head = msgspec.structs.replace(head, body_size=len(body), body_raw_size=len(raw), body_xxh64=xxhash.xxh64(body).hexdigest())
    rows = pa.compress(b"".join(own.values()), codec="zstd", asbytes=True) if own else b""
    if own:
        head = msgspec.structs.replace(head, inline_size=len(rows), inline_xxh64=xxhash.xxh64(rows).hexdigest())
    line = msgspec.json.encode(head)
    opening = line[:-1]  # without the closing brace
    data = opening + _CHECK + xxhash.xxh64(opening).hexdigest().encode() + b'"}\n' + body + rows
    return data, Version(head, state, xxhash.xxh64(data).hexdigest(), own)


def inline_files(state: State) -> list[ColumnFile]:
    """The files of a state that lie in its version object, in the order they lie there."""
    return [f for fragment in state.fragments if fragment.inlined for f in fragment.files if f.key.startswith(INLINE_FOLDER)]


def decode_head(data: Bytes, what: str) -> tuple[Head, int]:
    """Parse the head of a version object; returns it and where the body begins.

    Raises:
        Corrupt: the line is damaged, or not all there.
        UnsupportedFormat: a newer lakefmt wrote it.
    """
    text = bytes(data[: min(len(data), _HEAD_NBYTES_MAX)])
    end = text.find(b"\n")
    if end < 0:
        raise Corrupt(f"{what}: no version object, or a truncated one (its head does not end)")
    line = text[:end]
    at = line.rfind(_CHECK)
    if at < 0:
        raise Corrupt(f"{what}: no version object: its head has no checksum")
    if line[at:] != _CHECK + xxhash.xxh64(line[:at]).hexdigest().encode() + b'"}':
        raise Corrupt(f"{what}: its head does not match its checksum; restore the object from a copy")
    opening = line[:at] + b"}"
    _check_format(opening, what)
    try:
        return msgspec.json.decode(opening, type=Head), end + 1
    except (msgspec.MsgspecError, ValueError) as e:
        raise Corrupt(f"{what}: its head does not parse ({e})") from e


def trimmed(data: Bytes, what: str) -> bytes:
    """A version object with nothing but its head."""
    _, start = decode_head(data, what)
    return bytes(data[:start]) + EXPIRED


def _check_format(line: bytes, what: str) -> None:
    try:
        generic = msgspec.json.decode(line)
    except (msgspec.MsgspecError, ValueError) as e:
        raise Corrupt(f"{what}: its head is no JSON ({e})") from e
    version = generic.get("format_version") if isinstance(generic, dict) else None
    if not isinstance(version, int):
        raise Corrupt(f"{what}: its head names no format version")
    check_format_version(version, what)
    readers = generic.get("readers", ())
    if not isinstance(readers, list | tuple) or not all(isinstance(r, str) for r in readers):
        raise Corrupt(f"{what}: its head lists no reader features")
    unknown = sorted(set(readers) - READER_FEATURES)
    if unknown:
        raise UnsupportedFormat(f"{what} needs {unknown}, which this lakefmt does not know; upgrade lakefmt to read it")


def check_format_version(version: int, what: str) -> None:
    """Refuse a format newer than this code."""
    if version > FORMAT_VERSION:
        raise UnsupportedFormat(
            f"{what} is in format version {version}, this lakefmt reads up to {FORMAT_VERSION}; upgrade lakefmt to read it"
        )


def decode_version(data: Bytes, what: str) -> Version:
    """Parse a whole version object.

    Raises:
        Corrupt: any of it is damaged.
        VersionExpired: only its head is left.
        UnsupportedFormat: a newer lakefmt wrote it.
    """
    head, start = decode_head(data, what)
    if data[start:] == EXPIRED:
        raise VersionExpired(f"{what}: version {head.v} has expired: its rows were let go by expire(). Open a newer one")
    body = memoryview(data)[start : start + head.body_size]
    rows = memoryview(data)[start + head.body_size :]
    if len(rows) != head.inline_size or (len(rows) and xxhash.xxh64(rows).hexdigest() != head.inline_xxh64):
        raise Corrupt(f"{what}: the rows in it do not match their checksum; restore the object from a copy")
    if len(body) != head.body_size or xxhash.xxh64(body).hexdigest() != head.body_xxh64:
        raise Corrupt(f"{what}: its body does not match its checksum; restore the object from a copy")
    if not 0 <= head.body_raw_size <= _BODY_NBYTES_MAX:
        raise Corrupt(f"{what}: its head claims a body of {head.body_raw_size} bytes")
    try:
        raw = pa.decompress(body, decompressed_size=head.body_raw_size, codec="zstd", asbytes=True)
        state = msgspec.json.decode(raw, type=State)
    except (msgspec.MsgspecError, pa.ArrowException, OSError, ValueError) as e:
        raise Corrupt(f"{what}: its body does not parse ({e})") from e
    return Version(head, state, xxhash.xxh64(data).hexdigest(), _decode_inline(rows, state, what))


def _decode_inline(rows: Bytes, state: State, what: str) -> dict[str, bytes]:
    files = inline_files(state)
    if not files and not len(rows):
        return {}
    try:
        raw = pa.decompress(rows, decompressed_size=sum(f.size for f in files), codec="zstd", asbytes=True)
    except (pa.ArrowException, OSError, ValueError) as e:
        raise Corrupt(f"{what}: the rows in it do not decompress ({e}); restore the object from a copy") from e
    out, at = {}, 0
    for f in files:
        out[f.key] = raw[at : at + f.size]
        at += f.size
    if at != len(raw):
        raise Corrupt(f"{what}: it holds {len(raw)} bytes of rows, its entries say {at}; restore the object from a copy")
    return out
