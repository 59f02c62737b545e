"""``lakefmt demo``: the main job on real images, start to finish, on this machine alone.

Ingest a folder of JPEGs verbatim, commit, query, save the view, train a small network from the shuffled loader, change labels
on a branch, and look at the difference.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import lakefmt
from lakefmt.cells import Array
from lakefmt.dataset import Dataset
from lakefmt.errors import AlreadyExists, MissingExtra, NotFound, counted

SIDE = 64
BATCH = 32
_CHUNK = 64
#: In a dataset's info: a demo made it, and may replace it.
_MARK, _MADE_BY = "made_by", "lakefmt demo"


@dataclass
class Report:
    """Prints what is done, and how fast."""

    echo: Callable[[str], None]
    started_s: float = field(default_factory=time.perf_counter)

    def step(self, text: str) -> None:
        """A heading."""
        self.echo(f"\n{text}")

    def fact(self, text: str) -> None:
        """A result."""
        self.echo(f"  {text}")


def shipped_images() -> Path:
    """The folder of small images that come with lakefmt."""
    return Path(__file__).parent / "demo_images"


def run_demo(images: Path | None, out: Path, echo: Callable[[str], None] = print) -> Dataset:
    """Run it.

    Args:
        images: a folder of JPEGs (searched with its subfolders); by default the ones shipped.
        out: where the dataset goes; one that an earlier demo made there is replaced.
        echo: prints a line.

    Returns:
        The dataset, on its main branch.

    Raises:
        NotFound: the folder holds no JPEG.
        AlreadyExists: a dataset is there that no demo made.
    """
    folder = images or shipped_images()
    files = find_jpegs(folder)
    report = Report(echo)
    ds = _created(out)
    _ingest(ds, files, folder, report)
    _query(ds, report)
    _train(ds, report)
    _branch(ds, report)
    report.step("Where to look")
    report.fact(f"dataset     {out}")
    report.fact(f"saved view  {out}/.queries/demo")
    report.fact(f"as SQL      select label, count(*) from read_parquet('{ds.files()[0]}') group by label")
    report.fact(f"took {time.perf_counter() - report.started_s:.1f} s in all")
    return ds


def _created(out: Path) -> Dataset:
    """A new dataset; what people keep is not replaced by a demo."""
    if lakefmt.exists(out) and lakefmt.load(out, read_only=True).info.get(_MARK) != _MADE_BY:
        raise AlreadyExists(f"--out {str(out)!r} holds a dataset that no demo made; give another place, or delete that one first")
    ds: Dataset = lakefmt.dataset(out, overwrite=True)
    ds.info[_MARK] = _MADE_BY
    return ds


def find_jpegs(folder: Path) -> list[Path]:
    """Every JPEG below a folder, in order of name."""
    if not folder.is_dir():
        raise NotFound(f"--images {str(folder)!r} is no folder")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise NotFound(f"--images {str(folder)!r} holds no .jpg or .jpeg file")
    return files


def label_of(file: Path, top: Path) -> str:
    """Class of an image: its subfolder; else its name without a leading id and a trailing number (``n014_tench``, ``cat_12``)."""
    if file.parent != top:
        return file.parent.name
    stem = re.sub(r"^n\d+_", "", file.stem)
    return re.sub(r"[_-]?\d+$", "", stem) or stem


def _ingest(ds: Dataset, files: list[Path], top: Path, report: Report) -> None:
    report.step(f"1. Ingest {len(files)} JPEGs, their bytes kept as they are")
    ds.create_tensor("image", htype="image", sample_compression="jpeg")
    ds.create_tensor("label", htype="class_label")
    start = time.perf_counter()
    nbytes = 0
    for i in _bar(range(0, len(files), _CHUNK), "ingest", -(-len(files) // _CHUNK), report):
        part = files[i : i + _CHUNK]
        ds.extend({"image": [lakefmt.read(f) for f in part], "label": [label_of(f, top) for f in part]})
        nbytes += sum(f.stat().st_size for f in part)
    version = ds.commit("ingested the images")
    took_s = time.perf_counter() - start
    report.fact(f"{len(ds)} rows, {len(ds.label.class_names)} classes, {nbytes / 1e6:.1f} MB in {took_s:.2f} s")
    report.fact(f"{len(ds) / took_s:,.0f} images/s, {nbytes / 1e6 / took_s:,.0f} MB/s; committed as {version}")


def _query(ds: Dataset, report: Report) -> None:
    word = _common_word(ds)
    tql = f"select * where contains(label, '*{word}*') and shape(image)[0] > 300"
    report.step(f"2. Query: {tql}")
    start = time.perf_counter()
    view = ds.query(tql)
    took_ms = (time.perf_counter() - start) * 1e3
    report.fact(f"{len(view)} of {len(ds)} rows in {took_ms:.0f} ms, no image decoded")
    for row in view[:3]:
        report.fact(f"row {row.sample_indices[0]}: {row.label.data()['text']}, shape {row.image.shape}")
    view.save_view(id="demo", overwrite=True)
    again = lakefmt.dataset(f"{ds.path}/.queries/demo")
    report.fact(f"saved as view 'demo' and opened again: {len(again)} rows")


def _common_word(ds: Dataset) -> str:
    """The word that most class names of tall images have in common."""
    names = ds.label.class_names
    shapes = ds.image.shapes()
    tall = [names[int(i)] for i, s in zip(ds.label.numpy(), shapes, strict=True) if s[0] > 300]
    words = Counter(w for n in tall or names for w in re.split(r"[\W_]+", n) if len(w) > 2)
    return words.most_common(1)[0][0] if words else names[0]


def _train(ds: Dataset, report: Report) -> None:
    torch = _torch()
    report.step(f"3. Train a small CNN for an epoch: decode, resize to {SIDE}x{SIDE}, shuffle, batches of {BATCH}")
    torch.manual_seed(0)
    loader = ds.dataloader().transform({"image": to_rgb_square, "label": None}).batch(BATCH).shuffle().pytorch()
    model = _model(torch, len(ds.label.class_names))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses: list[float] = []
    seen, start = 0, time.perf_counter()
    for batch in _bar(loader, "train", len(loader), report):
        loss = torch.nn.functional.cross_entropy(model(batch["image"].float().div(255)), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        seen += len(batch["label"])
    took_s = time.perf_counter() - start
    report.fact(f"{seen} images in {took_s:.2f} s: {seen / took_s:,.0f} images/s with the training step")
    report.fact(f"loss of the first batch {losses[0]:.3f}, of the last {losses[-1]:.3f}")


def _branch(ds: Dataset, report: Report) -> None:
    report.step("4. Change some labels on a branch, and compare it with main")
    ds.checkout("relabel", create=True)
    changed = min(5, len(ds))
    for row in range(changed):
        ds.label[row] = ds.label.class_names[-1]
    ds.commit(f"changed {changed} labels")
    for line in str(ds.diff("main", "relabel")).splitlines():
        report.fact(line)
    ds.checkout("main")
    report.fact(f"back on main, untouched: row 0 is {ds.label[0].data()['text']!r}")


def to_rgb_square(image: Array) -> Array:
    """An image of any size, gray or colour, as uint8 (3, SIDE, SIDE)."""
    from PIL import Image

    picture = Image.fromarray(image).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def _model(torch: Any, classes: int) -> Any:
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip


def _torch() -> Any:
    try:
        import torch
    except ImportError as e:
        raise MissingExtra("the demo's training step", "torch,cli") from e
    return torch


def _bar(items: Iterable[Any], name: str, total: int, report: Report) -> Iterable[Any]:
    """A progress bar; where no terminal shows it, a line."""
    if not sys.stderr.isatty():
        report.fact(f"{name}: {counted(total, 'batch', 'batches')}")
        return items
    try:
        from tqdm import tqdm
    except ImportError as e:
        raise MissingExtra("the demo's progress bars", "cli") from e
    return tqdm(items, desc=f"  {name}", total=total, unit="batch", leave=False)  # type: ignore[no-any-return]
