"""A shuffled epoch over uint8 3x64x64 tensors with an int64 label, in batches of 256, one process.

The images are random bytes, so that nobody wins by compressing them. ``WRITERS`` and ``READERS`` are told
apart by name: the first by peer, the second by contender.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.model import SUBJECT, Contender, Measure, Sample, Target, Task, lookup
from benchmarks.timing import Array, epoch_sample, timed_epochs, warm_epoch

TITLE = "Shuffled epoch over 20,000 tensors (uint8 3x64x64 and a label)"
DATA = ("tensors",)
BATCH = 256
SHAPE = (3, 64, 64)
BYTES = 3 * 64 * 64
CLASSES = 1000


@dataclass(frozen=True)
class Source:
    """The generator's data: images (n, 3, 64, 64) uint8 and labels (n,) int64."""

    images: Array
    labels: Array


Pair = tuple[Any, Any]
"""A batch: torch tensors of images (b, 3, 64, 64) uint8 and labels (b,) int64."""
Epoch = Callable[[], Iterable[Pair]]


def generate(task: Task) -> None:
    rows = 2_000 if task.small else 20_000
    rng = np.random.default_rng(20)
    folder = task.data_of("tensors")
    np.save(folder / "images.npy", rng.integers(0, 256, (rows, *SHAPE), dtype=np.uint8))
    np.save(folder / "labels.npy", rng.integers(0, CLASSES, rows, dtype=np.int64))


def load(folder: Path, *, mapped: bool = False) -> Source:
    images = np.load(folder / "images.npy", mmap_mode="r" if mapped else None)
    return Source(images, np.load(folder / "labels.npy"))


# --- writers --------------------------------------------------------------------------------------


def write_lakefmt(source: Source, path: Path) -> None:
    import lakefmt

    ds = lakefmt.dataset(str(path))
    ds.create_tensor("image", htype="generic", dtype="uint8", shape=SHAPE)
    ds.create_tensor("label", htype="class_label")
    ds.extend({"image": source.images, "label": source.labels})
    ds.commit("written")


def write_mosaicml(source: Source, path: Path) -> None:
    from streaming import MDSWriter

    columns = {"image": "ndarray:uint8:3,64,64", "label": "int"}
    with MDSWriter(out=str(path), columns=columns) as writer:
        for image, label in zip(source.images, source.labels.tolist(), strict=True):
            writer.write({"image": image, "label": label})


def write_litdata(source: Source, path: Path) -> None:
    import torch
    from litdata.streaming.cache import Cache

    cache = Cache(str(path), chunk_bytes="64MB")
    for i, label in enumerate(source.labels.tolist()):
        cache[i] = {"image": torch.from_numpy(source.images[i]), "label": label}
    cache.done()
    cache.merge()


def write_hf(source: Source, path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Array3D(SHAPE, "uint8"), "label": datasets.Value("int64")})
    rows = {"image": source.images, "label": source.labels}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(path))


def write_hf_bytes(source: Source, path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Value("binary"), "label": datasets.Value("int64")})
    rows = {"image": [image.tobytes() for image in source.images], "label": source.labels}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(path))


def write_lance(source: Source, path: Path) -> None:
    import lance
    import pyarrow as pa

    images = pa.FixedSizeListArray.from_arrays(pa.array(source.images.reshape(-1)), BYTES)
    lance.write_dataset(pa.table({"image": images, "label": source.labels}), str(path))


def write_deeplake3(source: Source, path: Path) -> None:
    import deeplake

    ds = deeplake.empty(str(path), overwrite=True)
    with ds:
        ds.create_tensor("image", htype="generic", dtype="uint8")
        ds.create_tensor("label", htype="class_label", dtype="int64")
        ds.image.extend(source.images)
        ds.label.extend(source.labels)
    ds.commit("written")


def write_deeplake4(source: Source, path: Path) -> None:
    import deeplake

    ds = deeplake.create(str(path))
    ds.add_column("image", deeplake.types.Array("uint8", list(SHAPE)))
    ds.add_column("label", deeplake.types.ClassLabel("int64"))
    ds.append({"image": source.images, "label": source.labels})
    ds.commit("written")


def write_webdataset(source: Source, path: Path) -> None:
    import webdataset

    path.mkdir(parents=True)
    with webdataset.ShardWriter(f"{path}/%05d.tar", maxcount=1000, verbose=0) as writer:
        for i, label in enumerate(source.labels.tolist()):
            writer.write({"__key__": f"{i:08d}", "npy": source.images[i], "cls": label})


WRITERS: dict[str, Callable[[Source, Path], None]] = {
    SUBJECT: write_lakefmt,
    "mosaicml": write_mosaicml,
    "litdata": write_litdata,
    "hf": write_hf,
    "hf-by-hand": write_hf_bytes,
    "lance": write_lance,
    "deeplake3": write_deeplake3,
    "deeplake4": write_deeplake4,
    "webdataset": write_webdataset,
}


# --- readers: open the dataset, and give a function that goes through one shuffled epoch ----------


def read_lakefmt(path: Path) -> Epoch:
    import lakefmt

    loader = lakefmt.dataset(str(path)).dataloader().batch(BATCH).shuffle().pytorch()
    return lambda: ((batch["image"], batch["label"]) for batch in loader)


def read_mosaicml(path: Path) -> Epoch:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    clean_stale_shared_memory()
    ds = StreamingDataset(local=str(path), shuffle=True, shuffle_algo="naive", batch_size=BATCH)
    loader: Any = DataLoader(ds, batch_size=BATCH)
    return lambda: ((batch["image"], batch["label"]) for batch in loader)


def read_litdata(path: Path) -> Epoch:
    import litdata

    ds = litdata.StreamingDataset(str(path), shuffle=True)
    loader = litdata.StreamingDataLoader(ds, batch_size=BATCH, num_workers=0)
    return lambda: ((batch["image"], batch["label"]) for batch in loader)


def read_hf(path: Path) -> Epoch:
    import datasets
    import torch
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    ds: Any = datasets.load_from_disk(str(path)).with_format("torch")
    loader: Any = DataLoader(ds, sampler=BatchSampler(RandomSampler(ds), BATCH, False), batch_size=None)
    return lambda: ((batch["image"].to(torch.uint8), batch["label"]) for batch in loader)


def read_hf_bytes(path: Path) -> Epoch:
    import datasets
    import torch
    from torch.utils.data import DataLoader

    def collate(rows: list[dict[str, Any]]) -> Pair:
        joined = bytearray(b"".join([row["image"] for row in rows]))
        images = torch.frombuffer(joined, dtype=torch.uint8).reshape(-1, *SHAPE)
        return images, torch.tensor([row["label"] for row in rows])

    ds: Any = datasets.load_from_disk(str(path))
    return lambda: DataLoader(ds, batch_size=BATCH, shuffle=True, collate_fn=collate)


def read_lance_torch(path: Path) -> Epoch:
    import lance
    from lance.torch.data import LanceDataset, ShardedBatchSampler

    sampler = ShardedBatchSampler(0, 1, randomize=True)
    ds = LanceDataset(lance.dataset(str(path)), batch_size=BATCH, columns=["image", "label"], sampler=sampler)
    return lambda: ((batch["image"].reshape(-1, *SHAPE), batch["label"]) for batch in ds)


def read_lance_by_hand(path: Path) -> Epoch:
    import lance
    import torch

    ds = lance.dataset(str(path))
    rows = ds.count_rows()

    def epoch() -> Iterator[Pair]:
        order = np.random.default_rng().permutation(rows)
        for start in range(0, rows, BATCH):
            batch = ds.take(order[start : start + BATCH], columns=["image", "label"])
            images = batch["image"].combine_chunks().flatten().to_numpy().reshape(-1, *SHAPE)
            yield torch.from_numpy(images), torch.from_numpy(batch["label"].to_numpy())

    return epoch


def read_deeplake3(path: Path) -> Epoch:
    import deeplake

    ds = deeplake.load(str(path), read_only=True, verbose=False)
    loader = ds.pytorch(num_workers=0, batch_size=BATCH, shuffle=True)
    return lambda: ((batch["image"], batch["label"].reshape(-1)) for batch in loader)


def read_deeplake4_pytorch(path: Path) -> Epoch:
    import deeplake
    from torch.utils.data import DataLoader

    ds = deeplake.open_read_only(str(path))
    loader: Any = DataLoader(ds.pytorch(), batch_size=BATCH, shuffle=True)
    return lambda: ((batch["image"], batch["label"]) for batch in loader)


def read_deeplake4_batches(path: Path) -> Epoch:
    import deeplake
    import torch

    ds = deeplake.open_read_only(str(path))

    def epoch() -> Iterator[Pair]:
        for batch in ds.query("SELECT * ORDER BY RANDOM()").batches(BATCH):
            yield torch.from_numpy(batch["image"]), torch.from_numpy(batch["label"])

    return epoch


def read_webdataset(path: Path) -> Epoch:
    import webdataset

    shards = [str(p) for p in sorted(path.glob("*.tar"))]
    ds = webdataset.WebDataset(shards, shardshuffle=len(shards))
    ds = ds.shuffle(5000, initial=5000).decode().to_tuple("npy", "cls").batched(BATCH)
    loader: Any = webdataset.WebLoader(ds, batch_size=None, num_workers=0)
    return lambda: loader


READERS: dict[str, Callable[[Path], Epoch]] = {
    SUBJECT: read_lakefmt,
    "mosaicml": read_mosaicml,
    "litdata": read_litdata,
    "hf": read_hf,
    "hf-by-hand": read_hf_bytes,
    "lance-torch": read_lance_torch,
    "lance-by-hand": read_lance_by_hand,
    "deeplake3": read_deeplake3,
    "deeplake4-pytorch": read_deeplake4_pytorch,
    "deeplake4-batches": read_deeplake4_batches,
    "webdataset": read_webdataset,
}

IN_RAM = "torch in RAM"

CONTENDERS = (
    Contender(SUBJECT, "`ds.dataloader().batch(256).shuffle().pytorch()`", role="subject"),
    Contender("mosaicml", "StreamingDataset, `shuffle_algo='naive'` (global), in a DataLoader", "mosaicml"),
    Contender("litdata", "StreamingDataset(shuffle=True) in a StreamingDataLoader, 64 MB chunks", "litdata"),
    Contender(
        "hf",
        "Array3D column, `with_format('torch')`, DataLoader over a BatchSampler (a whole batch a read)",
        "hf",
    ),
    Contender(
        "hf-by-hand",
        "images as bytes in a binary column, joined and reshaped by our own collate",
        "hf",
        dataset="hf-by-hand",
    ),
    Contender("lance-torch", "lance.torch LanceDataset with ShardedBatchSampler(randomize=True)", "lance"),
    Contender("lance-by-hand", "`take` of 256 random rows, flattened to one tensor by hand", "lance"),
    Contender("deeplake3", "`ds.pytorch(shuffle=True, num_workers=0)`, its default 2 GB buffer", "deeplake3"),
    Contender("deeplake4-pytorch", "`ds.pytorch()` in a DataLoader(shuffle=True)", "deeplake4"),
    Contender("deeplake4-batches", "`ds.query('SELECT * ORDER BY RANDOM()').batches(256)`", "deeplake4"),
    Contender("webdataset", "tars of 1,000, shards shuffled, `.shuffle(5000)`, `.batched`, WebLoader", "webdataset"),
    Contender(IN_RAM, "DataLoader(TensorDataset, batch_size=256, shuffle=True)", role="limit"),
)

MEASURES = (
    Measure(
        "epoch",
        "Samples a second in a shuffled epoch, torch tensors, batch 256, num_workers=0",
        "samples/s",
        True,
        CONTENDERS,
        (
            Target(
                "10 times the best loader that a peer ships and that shuffles globally",
                "best peer",
                at_least=10.0,
                among=("shuffle spread", 0.9),
                shipped=True,
            ),
            Target(
                "10 times everything that shuffles globally, batches written by hand included",
                "best peer",
                at_least=10.0,
                among=("shuffle spread", 0.9),
            ),
            Target("faster than everything, whether it shuffles or not", "best peer", at_least=1.0),
            Target("above torch's own loader over tensors in RAM", IN_RAM, at_least=1.0),
        ),
    ),
)


def write(task: Task) -> None:
    lookup(WRITERS, task.contender)(load(task.data_of("tensors")), task.store_dir)


def epoch_in_ram(source: Source) -> Epoch:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    ds = TensorDataset(torch.from_numpy(source.images), torch.from_numpy(source.labels))
    loader: Any = DataLoader(ds, batch_size=BATCH, shuffle=True)
    return lambda: loader


def first_bytes(images: Array) -> Array:
    """A key for each image: its first eight bytes as a uint64."""
    heads = np.ascontiguousarray(images.reshape(len(images), -1)[:, :8])
    return heads.view(np.uint64).reshape(-1)


def row_finder(source: Source) -> Callable[[Pair], Array]:
    """A function that tells which rows a batch holds, and fails where it isn't the generator's data."""
    keys = first_bytes(source.images)
    order = np.argsort(keys)

    def rows_of(batch: Pair) -> Array:
        images, labels = batch[0].numpy(), batch[1].numpy()
        rows = order[np.searchsorted(keys, first_bytes(images), sorter=order)]
        if images.dtype != np.uint8 or images.shape[1:] != SHAPE or not np.array_equal(source.images[rows], images):
            raise AssertionError("a batch's images are not the generator's")
        if not np.array_equal(source.labels[rows], labels):
            raise AssertionError("a batch's labels are not the generator's")
        return np.asarray(rows)

    return rows_of


def measure(task: Task) -> Sample:
    in_ram = task.contender == IN_RAM
    source = load(task.data_of("tensors"), mapped=not in_ram)
    epoch = epoch_in_ram(source) if in_ram else lookup(READERS, task.contender)(task.store_dir)
    rows = len(source.labels)
    spread = warm_epoch(epoch(), row_finder(source), rows)
    expected = (rows, int(source.labels.sum()))
    seconds = timed_epochs(epoch, lambda batch: (len(batch[0]), int(batch[1].sum())), expected)
    return epoch_sample(seconds, rows, {"shuffle spread": round(spread, 3)})
