"""What the version object records of a fragment: its column files, what each holds, and how its rows differ from them.

These are values (msgspec structs); nothing here reads a store.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

import msgspec

from lakefmt.htypes import TensorDef


class Layout(StrEnum):
    """How a tensor's samples lie in a column file.

    ``SCALAR``    one native Parquet value a row                                     (light)
    ``LISTS``     LIST of flat elements, with a shape column when shapes vary         (light)
    ``TEXT``      STRING                                                             (light)
    ``DOCUMENTS`` STRING, pages of about 64 KB, compressed                            (file of its own)
    ``FLAT``      equal shapes: one flat array of values a page                        (file of its own)
    ``BLOBS``     BYTE_ARRAY, a page a large value; shapes in the light file           (file of its own)
    """

    SCALAR = "scalar"
    LISTS = "lists"
    TEXT = "text"
    DOCUMENTS = "documents"
    FLAT = "flat"
    BLOBS = "blobs"


#: Keys of files that lie in the version object that names them, and not in the store.
INLINE_FOLDER = "inline/"

#: Light files up to this size are fetched, and checked, as a whole; of larger ones the columns asked for.
WHOLE_NBYTES_MAX = 8 << 20

LIGHT = frozenset({Layout.SCALAR, Layout.LISTS, Layout.TEXT})


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of everything the log records: immutable, JSON, defaults left out."""


class Field(Record, frozen=True):
    """One tensor within a column file.

    Attributes:
        id: field id of the tensor.
        column: name of the Parquet column.
        layout: how the samples lie.
        rows: number of leading rows of the fragment that the file covers (less than the fragment's for a short tensor).
        shape: the shape of every sample, when they agree and none is missing.
        shape_column: name of the light column holding shapes, when they vary.
        shape_file: key of the file with the shape column, when it is not this file.
        shape_min, shape_max: bounds of the shapes, per dimension, when all samples have as many dimensions.
        ndim_min, ndim_max: bounds of the number of dimensions of the samples present.
        missing: number of missing samples within ``rows``.
        nbytes: bytes of the samples, before compression.
        dtype: NumPy dtype the samples are stored as; ``None``: the one the tensor had before it was first widened.
    """

    id: int
    column: str
    layout: Layout
    rows: int
    shape: tuple[int, ...] | None = None
    shape_column: str | None = None
    shape_file: str | None = None
    shape_min: tuple[int, ...] | None = None
    shape_max: tuple[int, ...] | None = None
    ndim_min: int = 0
    ndim_max: int = 0
    missing: int = 0
    nbytes: int = 0
    dtype: str | None = None


def stored_dtype(definition: TensorDef, field: Field) -> str | None:
    """NumPy dtype of a tensor's samples in a column: the tensor's, unless it was widened since."""
    return field.dtype or definition.first_dtype or definition.dtype


class ColumnFile(Record, frozen=True):
    """One immutable Parquet file.

    Attributes:
        key: where it lies.
        size: bytes.
        xxh64: checksum of all its bytes, in hex.
        index_start: where its page indexes and footer begin, so that one request fetches them.
        index_xxh64: checksum of the bytes from there to the end; checked before they are used.
        fields: the tensors in it.
        columns_xxh64: of a light file of more than ``WHOLE_NBYTES_MAX``: each column and the checksum of all its chunks' bytes,
            so that a reader who fetches some columns over a network can check what came.
    """

    key: str
    size: int
    xxh64: str
    index_start: int
    index_xxh64: str
    fields: tuple[Field, ...]
    columns_xxh64: tuple[tuple[str, str], ...] = ()


class Slice(Record, frozen=True):
    """Rows ``[start, start + count)`` of a small file shared by several fragments: the part that concerns one of them.

    The file's column ``_offset`` (INT64) holds row offsets within the fragment, ascending.
    """

    file: ColumnFile
    start: int
    count: int


class Overlay(Record, frozen=True):
    """New samples for some rows of one tensor.

    Attributes:
        field_id: the tensor.
        at: which rows; its file also holds the samples when they are light.
        files: every file of the samples (``at.file`` among them), laid out as a fragment's files are.
    """

    field_id: int
    at: Slice
    files: tuple[ColumnFile, ...]


class Fragment(Record, frozen=True):
    """A contiguous run of rows.

    Attributes:
        id: uuid, its identity for ever.
        rows: rows written, deleted ones included.
        first_id: row id of its first row; ids run on from there.
        files: column files; a tensor has at most one.
        deleted: rows deleted, as a slice of a deletion file.
        overlays: updates, oldest first; a later one wins.
        ids: row ids of its rows where they do not run on from the first (compaction left rows out), as a slice of a file.
    """

    id: str
    rows: int
    first_id: int
    files: tuple[ColumnFile, ...] = ()
    deleted: Slice | None = None
    overlays: tuple[Overlay, ...] = ()
    ids: Slice | None = None

    @property
    def inlined(self) -> bool:
        """Whether its rows lie in the version object itself."""
        return any(f.key.startswith(INLINE_FOLDER) for f in self.files)

    @property
    def live(self) -> int:
        """Rows that are not deleted."""
        return self.rows - (self.deleted.count if self.deleted else 0)

    def field(self, field_id: int) -> tuple[ColumnFile, Field] | None:
        """The file and entry that hold a tensor, or ``None`` where the fragment lacks it."""
        return find_field(self.files, field_id)

    def overlays_of(self, field_id: int) -> list[Overlay]:
        """Updates of one tensor, oldest first."""
        return [o for o in self.overlays if o.field_id == field_id]

    def holds(self, field_id: int) -> bool:
        """Whether any of its files has samples of a tensor."""
        return self.field(field_id) is not None or bool(self.overlays_of(field_id))

    def every_file(self) -> list[ColumnFile]:
        """Every file this fragment needs."""
        extra = [f for o in self.overlays for f in (o.at.file, *o.files)]
        lists = [part.file for part in (self.deleted, self.ids) if part is not None]
        return list(dict.fromkeys([*self.files, *lists, *extra]))

    def files_of(self, field_ids: Collection[int]) -> list[ColumnFile]:
        """Every file that reading some tensors needs."""
        entries = [(f, e) for f in self.files for e in f.fields if e.id in field_ids]
        keys = {f.key for f, _ in entries} | {e.shape_file for _, e in entries}
        lists = [part.file for part in (self.deleted, self.ids) if part is not None]
        changed = [f for o in self.overlays if o.field_id in field_ids for f in (o.at.file, *o.files)]
        return list(dict.fromkeys([*(f for f in self.files if f.key in keys), *lists, *changed]))


def find_field(files: tuple[ColumnFile, ...], field_id: int) -> tuple[ColumnFile, Field] | None:
    """The file and entry that hold a tensor among some files."""
    for file in files:
        for entry in file.fields:
            if entry.id == field_id:
                return file, entry
    return None
