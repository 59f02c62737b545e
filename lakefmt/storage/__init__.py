"""Where objects live: one small port, one adapter a backend."""

from lakefmt.storage.address import Address, branch_readings, open_store, parse_address
from lakefmt.storage.generic import FsspecStore
from lakefmt.storage.local import LocalStore
from lakefmt.storage.memory import MemoryStore
from lakefmt.storage.port import Bytes, Entry, Range, Store, Writer, probe_put_if_absent
from lakefmt.storage.scratch import ScratchStore

__all__ = [
    "Address",
    "Bytes",
    "Entry",
    "FsspecStore",
    "LocalStore",
    "MemoryStore",
    "Range",
    "ScratchStore",
    "Store",
    "Writer",
    "branch_readings",
    "open_store",
    "parse_address",
    "probe_put_if_absent",
]
