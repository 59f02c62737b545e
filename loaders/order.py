"""Random bits and random permutations as arithmetic: nothing is stored, any position can be asked for at any
time.

Two building blocks, both pure functions of integers and therefore equal on every machine and every NumPy
version:

``uniforms(key, positions)``
    Counter-based random numbers: number *i* of stream *key* is a bit mixer applied to ``key + i * step``. The
    mixer is the public-domain splitmix64 finaliser (Steele, Lea, Flood: "Fast splittable pseudorandom number
    generators", OOPSLA 2014; constants by David Stafford's "Mix13"); ``step`` is 2**64 divided by the golden
    ratio, made odd.

``permute(positions, n, key)``
    Where each position of ``[0, n)`` goes under a pseudorandom permutation. Large domains use a Feistel
    network over a mixed radix, the generalised construction of Black and Rogaway ("Ciphers with arbitrary
    finite domains", 2002): write x as (left, right) in an a-by-b rectangle with a*b barely above n, then
    alternately add a hash of one half to the other, modulo its side. Results that fall in the rectangle's
    overhang (fewer than a of them, about one in sqrt(n)) walk on along their cycle until they land inside.
    The rounds hash 32-bit words (the finaliser of Appleby's public-domain MurmurHash3) where both sides fit
    sixteen bits, n up to 2**32: vector units multiply these four times as fast as 64-bit ones; larger domains
    take the 64-bit mixer. Small domains, where few rounds over tiny halves would be visibly non-uniform, sort
    random keys instead; that table is at most ``TABLE_MAX`` entries.

Cost is per call (some 100 NumPy operations) plus some twenty nanoseconds per position: ask for blocks of
thousands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lakefmt.cells import Rows

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MUL1 = 0xBF58476D1CE4E5B9
_MUL2 = 0x94D049BB133111EB
_ROUNDS = 6

#: Domains up to this size are permuted by a sorted table (32 KiB at most, a few kept).
TABLE_MAX = 4096

#: Domains up to this size take the rounds over 32-bit words.
_NARROW_MAX = 1 << 32
_MURMUR1, _MURMUR2 = 0x85EBCA6B, 0xC2B2AE35

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]


def mix(word: int) -> int:
    """The splitmix64 finaliser on one Python integer: a bijection of 64-bit words."""
    word &= _MASK
    word = ((word ^ (word >> 30)) * _MUL1) & _MASK
    word = ((word ^ (word >> 27)) * _MUL2) & _MASK
    return word ^ (word >> 31)


def derive(*words: int) -> int:
    """A 64-bit key out of several integers (seed, epoch, purpose, ...); order matters, negatives are
    allowed.
    """
    key = 0
    for word in words:
        key = mix(key ^ mix((word + _GOLDEN) & _MASK)) + _GOLDEN
    return key & _MASK


def mix_array(words: U64) -> U64:
    """``mix`` of every word, in place; returns its argument."""
    words ^= words >> np.uint64(30)
    words *= np.uint64(_MUL1)
    words ^= words >> np.uint64(27)
    words *= np.uint64(_MUL2)
    words ^= words >> np.uint64(31)
    return words


def bits(key: int, positions: Rows) -> U64:
    """64 random bits for each position of stream ``key``; shape of ``positions``."""
    words = positions.astype(np.uint64)
    words += np.uint64(1)
    words *= np.uint64(_GOLDEN)
    words += np.uint64(key)
    return mix_array(words)


def uniforms(key: int, positions: Rows) -> npt.NDArray[np.float64]:
    """A float64 in [0, 1) with 53 random bits for each position of stream ``key``."""
    return (bits(key, positions) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(positions: Rows, n: int, key: int) -> Rows:
    """Images of ``positions`` under the permutation ``key`` of ``[0, n)``.

    Args:
        positions: int64, each in ``[0, n)``; any order, repeats allowed.
        n: size of the domain.
        key: 64-bit key; see ``derive``.

    Returns:
        int64 array of the shape of ``positions``, each in ``[0, n)``.
    """
    if n <= TABLE_MAX:
        return _table(n, key)[positions]
    return _walked(positions, n, [_round_key(key, r) for r in range(_ROUNDS)])


def permute_each(positions: Rows, n: int, keys: U64) -> Rows:
    """``permute(positions[i], n, keys[i])`` for every i, for ``n`` above ``TABLE_MAX``."""
    words = [keys + np.uint64(r) for r in range(_ROUNDS)]
    return _walked(positions, n, [mix_array(w) for w in words])


def _walked(positions: Rows, n: int, round_keys: Sequence[Any]) -> Rows:
    """Images in the rectangle, those in its overhang walked on until they lie below ``n``."""
    rows, columns = _sides(n)
    narrow = n <= _NARROW_MAX
    images: Any = positions.astype(np.uint32 if narrow else np.uint64)
    network = _feistel32 if narrow else _feistel
    images = network(images, rows, columns, round_keys)
    outside = np.flatnonzero(images >= n)
    while outside.size:
        keys = [k if isinstance(k, int) else k[outside] for k in round_keys]
        walked = network(images[outside], rows, columns, keys)
        images[outside] = walked
        outside = outside[walked >= n]
    moved: Rows = images.astype(np.int64)
    return moved


def _sides(n: int) -> tuple[int, int]:
    rows = math.isqrt(n - 1) + 1
    return rows, -(-n // rows)


def _round_key(key: int, round_no: int) -> int:
    return mix(key + round_no)


def place_of(image: int, n: int, key: int) -> int:
    """The position that ``permute`` sends to ``image`` (its inverse, at one point)."""
    if n <= TABLE_MAX:
        return int(np.flatnonzero(_table(n, key) == image)[0])
    rows, columns = _sides(n)
    narrow = n <= _NARROW_MAX
    x = image
    while True:
        x = _unfeistel(x, rows, columns, key, _hash32_one if narrow else _hash_one)
        if x < n:
            return x


@lru_cache(maxsize=64)
def _table(n: int, key: int) -> Rows:
    """The whole permutation of a small domain: the order of n random keys. Ties would be broken by
    position.
    """
    table = np.argsort(bits(key, np.arange(n, dtype=np.int64)), kind="stable").astype(np.int64)
    table.setflags(write=False)
    return table


def _feistel(x: U64, rows: int, columns: int, round_keys: Sequence[Any]) -> U64:
    """One pass of the network over the rectangle ``rows`` by ``columns``; both sides are below 2**32."""
    left = x // np.uint64(columns)
    right = x - left * np.uint64(columns)
    for round_no, key in enumerate(round_keys):
        half, other, side = (left, right, rows) if round_no % 2 == 0 else (right, left, columns)
        half += _reduced_hash(other, side, key)
        half -= (half >= np.uint64(side)).astype(np.uint64) * np.uint64(side)
    left *= np.uint64(columns)
    left += right
    return left


def _reduced_hash(other: Any, side: int, round_key: Any) -> Any:
    """Hash of each word, scaled into ``[0, side)`` by a multiplication instead of a division."""
    words = other + (np.uint64(round_key) if isinstance(round_key, int) else round_key)
    mix_array(words)
    words >>= np.uint64(32)
    words *= np.uint64(side)
    words >>= np.uint64(32)
    return words


def _feistel32(x: U32, rows: int, columns: int, round_keys: Sequence[Any]) -> U32:
    """The same with 32-bit words; both sides are at most 2**16."""
    left = x // np.uint32(columns)
    right = x - left * np.uint32(columns)
    for round_no, key in enumerate(round_keys):
        half, other, side = (left, right, rows) if round_no % 2 == 0 else (right, left, columns)
        half += _reduced_hash32(other, side, np.uint32(key & 0xFFFFFFFF) if isinstance(key, int) else key.astype(np.uint32))
        np.minimum(half, half - np.uint32(side), out=half)  # modulo: below ``side`` the difference wraps to a large number
    left *= np.uint32(columns)
    left += right
    return left


def _reduced_hash32(other: U32, side: int, round_key: Any) -> U32:
    words: U32 = other + round_key
    words ^= words >> np.uint32(16)
    words *= np.uint32(_MURMUR1)
    words ^= words >> np.uint32(13)
    words *= np.uint32(_MURMUR2)
    words ^= words >> np.uint32(16)
    low = words & np.uint32(0xFFFF)  # (words * side) >> 32 in two parts, for a side of at most 2**16
    low *= np.uint32(side)
    low >>= np.uint32(16)
    words >>= np.uint32(16)
    words *= np.uint32(side)
    words += low
    words >>= np.uint32(16)
    return words


def _unfeistel(x: int, rows: int, columns: int, key: int, hash_one: Callable[[int, int, int], int]) -> int:
    left, right = divmod(x, columns)
    for round_no in reversed(range(_ROUNDS)):
        if round_no % 2 == 0:
            left = (left - hash_one(right, rows, _round_key(key, round_no))) % rows
        else:
            right = (right - hash_one(left, columns, _round_key(key, round_no))) % columns
    return left * columns + right


def _hash_one(word: int, side: int, round_key: int) -> int:
    return ((mix(word + round_key) >> 32) * side) >> 32


def _hash32_one(word: int, side: int, round_key: int) -> int:
    """What ``_reduced_hash32`` gives one word."""
    return int(_reduced_hash32(np.array([word], np.uint32), side, np.uint32(round_key & 0xFFFFFFFF))[0])
