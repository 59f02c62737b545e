"""What is left of a fragment when some of its files are lost.

The rule is that nothing is made up: a row shows no sample that an update has replaced, and no id that another row has. Samples
that were in a lost file are missing; where it is not known any more which rows an update concerned, all earlier samples of that
tensor in the fragment are. Rows whose list of ids is lost get ids that no row ever had. Of deletions alone more comes back than was
there: which rows were deleted is not known, and one that is back can be deleted again, where one that is dropped is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import xxhash

from lakefmt.cells import Rows
from lakefmt.errors import Corrupt
from lakefmt.fragment.columns import missing_column
from lakefmt.fragment.meta import ColumnFile, Fragment, Overlay, Slice
from lakefmt.fragment.read import FileReader
from lakefmt.fragment.verify import verify_files
from lakefmt.fragment.write import write_files
from lakefmt.htypes import TensorDef
from lakefmt.storage import Store
from lakefmt.versioning.records import ROW_ID_BITS

replace = msgspec.structs.replace

#: What a loss is called that is none of a tensor's samples.
IDS = "(row ids)"
DELETIONS = "(deleted rows are back)"


@dataclass(slots=True)
class Remains:
    """What is left of a fragment, and what went: tensor name (or ``IDS``, ``DELETIONS``) to how many rows, and the lost files."""

    fragment: Fragment
    lost: dict[str, int] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)


class Salvage:
    """Takes lost files out of fragments."""

    def __init__(self, store: Store, suspects: set[str], *, write: bool) -> None:
        """
        Args:
            suspects: keys of the files that a check has found missing or damaged; those that are whole by now are not lost.
            write: write the files that are needed in place of lost ones.
        """
        self._store = store
        self._reader = FileReader(store)
        self._suspects = suspects
        self._write = write
        self._lost: dict[str, bool] = {}
        self._blank: dict[tuple[str | None, int, str], tuple[ColumnFile, ...]] = {}  # a branch may have widened the tensor

    def remains(self, fragment: Fragment, tensors: Mapping[int, TensorDef]) -> Remains | None:
        """What is left of a fragment; ``None`` where nothing of it is lost.

        Args:
            tensors: by field id; what other tensors had is dropped without being counted.
        """
        lost = {f.key for f in fragment.every_file() if self._is_lost(f)}
        if not lost:
            return None
        made = Remains(fragment, keys=lost)
        rows = dict[int, int]()  # field id to how many samples are lost
        gone = {e.id for f in fragment.files for e in f.fields if f.key in lost or e.shape_file in lost}
        overlays: list[Overlay] = []
        for o in fragment.overlays:
            if not any(f.key in lost for f in (o.at.file, *o.files)):
                overlays.append(o)
                continue
            rows[o.field_id] = rows.get(o.field_id, 0) + o.at.count
            blank = self._blanked(o, tensors.get(o.field_id), lost)
            if blank is not None:
                overlays.append(blank)
            else:  # which rows it concerned is not known: none of them may show what they had before
                gone.add(o.field_id)
                overlays = [other for other in overlays if other.field_id != o.field_id]
        rows |= {e.id: max(e.rows, rows.get(e.id, 0)) for f in fragment.files for e in f.fields if e.id in gone}
        made.lost = {tensors[i].name: n for i, n in rows.items() if i in tensors and n}
        ends = self._ends(fragment, {i: tensors[i] for i in gone if i in tensors})
        made.fragment = replace(fragment, files=_without(fragment.files, gone, lost), overlays=(*ends, *overlays))
        if fragment.deleted is not None and fragment.deleted.file.key in lost:
            made.lost[DELETIONS] = fragment.deleted.count
            made.fragment = replace(made.fragment, deleted=None)
        if fragment.ids is not None and fragment.ids.file.key in lost:
            made.lost[IDS] = fragment.rows
            made.fragment = replace(made.fragment, ids=None, first_id=_fresh_ids(fragment.id, fragment.ids.file.key))
        return made

    def _is_lost(self, file: ColumnFile) -> bool:
        """Whether a file cannot be read. A report may be old: who restored the file since must not lose it by the repair."""
        if file.key not in self._suspects:
            return False
        if file.key not in self._lost:
            try:
                verify_files(self._store, [file])
                self._lost[file.key] = False
            except Corrupt:
                self._lost[file.key] = True
        return self._lost[file.key]

    def _blanked(self, overlay: Overlay, definition: TensorDef | None, lost: set[str]) -> Overlay | None:
        """The same rows, their samples missing; ``None`` where it is not known which rows they are."""
        if definition is None or overlay.at.file.key in lost:
            return None
        try:
            offsets = self._reader.offsets(overlay.at.file)
        except Corrupt:
            return None
        if not self._write:
            return replace(overlay, files=())
        key = (definition.dtype, overlay.field_id, overlay.at.file.key)
        if key not in self._blank:  # one file for all slices of the lost one
            self._blank[key] = self._missing(definition, offsets)
        files = self._blank[key]
        return replace(overlay, at=Slice(file=files[0], start=overlay.at.start, count=overlay.at.count), files=files)

    def _ends(self, fragment: Fragment, tensors: Mapping[int, TensorDef]) -> list[Overlay]:
        """The last row that each of some tensors covered, its sample missing: the tensor keeps its length, so that who continues it
        does not write into the rows that have lost theirs.
        """
        out: list[Overlay] = []
        for i, definition in tensors.items():
            found = fragment.field(i)
            if found is None or not found[1].rows or not self._write:
                continue
            key = (definition.dtype, i, fragment.id)
            if key not in self._blank:
                self._blank[key] = self._missing(definition, np.array([found[1].rows - 1]))
            files = self._blank[key]
            out.append(Overlay(field_id=i, at=Slice(file=files[0], start=0, count=1), files=files))
        return out

    def _missing(self, definition: TensorDef, offsets: Rows) -> tuple[ColumnFile, ...]:
        column = missing_column(definition, len(offsets))
        return write_files(self._store, [(definition, column)], len(offsets), folder="overlays", offsets=offsets)


def _without(files: tuple[ColumnFile, ...], gone: set[int], lost: set[str]) -> tuple[ColumnFile, ...]:
    """The files less some tensors, and less those that hold nothing then; one that others have their shapes in stays."""
    if not gone and lost.isdisjoint(f.key for f in files):
        return files
    left = tuple(replace(f, fields=tuple(e for e in f.fields if e.id not in gone)) for f in files if f.key not in lost)
    needed = {e.shape_file for f in left for e in f.fields}
    return tuple(f for f in left if f.fields or f.key in needed)


def _fresh_ids(fragment_id: str, key: str) -> int:
    """Where the row ids of a fragment begin whose list is lost: in an id space of its own, which no branch is likely to have.

    The same whoever asks: a fragment that several branches have keeps one set of ids, so that they can be merged.
    """
    space = xxhash.xxh64(f"{fragment_id} {key}".encode()).intdigest() % ((1 << 31) - 1) + 1
    return space << ROW_ID_BITS
