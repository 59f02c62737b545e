"""Where objects live: one small port, one adapter a backend."""

from lakefmt.storage.address import Address, branch_readings, open_store, parse_address
from lakefmt.storage.cache_download import Downloaded, Progress, bring
from lakefmt.storage.cache_whole import Whole
from lakefmt.storage.cached import CachedStore, CacheSizes, cache_sizes, cached
from lakefmt.storage.generic import FsspecStore
from lakefmt.storage.local import LocalStore
from lakefmt.storage.memory import MemoryStore
from lakefmt.storage.port import Bytes, Entry, Range, Store, Writer, probe_put_if_absent
from lakefmt.storage.scratch import ScratchStore

__all__ = [
    "Address",
    "Bytes",
    "CacheSizes",
    "CachedStore",
    "Downloaded",
    "Entry",
    "FsspecStore",
    "LocalStore",
    "MemoryStore",
    "Progress",
    "Range",
    "ScratchStore",
    "Store",
    "Whole",
    "Writer",
    "branch_readings",
    "bring",
    "cache_sizes",
    "cached",
    "open_store",
    "parse_address",
    "probe_put_if_absent",
]
