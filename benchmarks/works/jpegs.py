"""JPEGs of about 110 KB: the latency of one random JPEG's bytes, and a shuffled epoch that decodes them.

The data set repeats the real JPEGs of a folder (``--images``). It is kept as one file of concatenated bytes
and one of positions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.model import SUBJECT, Contender, Measure, Sample, Target, Task, lookup
from benchmarks.timing import Array, epoch_sample, timed_epochs

TITLE = "8,000 real JPEGs: one random sample, and a shuffled epoch with decoding"
DATA = ("jpegs",)
BATCH = 64
READS = 2_000
WARM_READS = 200

Blobs = Sequence[bytes]
ReadOne = Callable[[int], bytes]
"""The encoded bytes of one sample, by its position."""


class Stored:
    """The generator's JPEGs, read from its file one at a time."""

    def __init__(self, folder: Path) -> None:
        self._bytes: Array = np.memmap(folder / "bytes.bin", dtype=np.uint8, mode="r")
        self._starts: Array = np.load(folder / "starts.npy")
        self.pixels: Array = np.load(folder / "pixels.npy")
        """Height times width of each."""

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: int) -> bytes:
        return bytes(self._bytes[self._starts[i] : self._starts[i + 1]].tobytes())


def generate(task: Task) -> None:
    import simplejpeg

    rows = 400 if task.small else 8_000
    places = sorted(p for p in Path(task.images).iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
    if not places:
        raise FileNotFoundError("the folder given by --images holds no JPEG")
    blobs = [p.read_bytes() for p in places]
    areas = [int(np.prod(simplejpeg.decode_jpeg_header(blob)[:2])) for blob in blobs]
    folder = task.data_of("jpegs")
    with (folder / "bytes.bin").open("wb") as out:
        for i in range(rows):
            out.write(blobs[i % len(blobs)])
    lengths = [len(blobs[i % len(blobs)]) for i in range(rows)]
    np.save(folder / "starts.npy", np.concatenate([[0], np.cumsum(lengths)]))
    np.save(folder / "pixels.npy", np.array([areas[i % len(blobs)] for i in range(rows)]))


def load(folder: Path) -> list[bytes]:
    stored = Stored(folder)
    return [stored[i] for i in range(len(stored))]


# --- writers: the bytes are kept as they are ------------------------------------------------------


def write_lakefmt(blobs: Blobs, path: Path) -> None:
    import lakefmt

    ds = lakefmt.dataset(str(path))
    ds.create_tensor("image", htype="image", sample_compression="jpeg")
    ds.extend({"image": [lakefmt.read(blob) for blob in blobs]})
    ds.commit("written")


def write_mosaicml(blobs: Blobs, path: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(path), columns={"image": "bytes"}) as writer:
        for blob in blobs:
            writer.write({"image": blob})


def write_litdata(blobs: Blobs, path: Path) -> None:
    from litdata.streaming.cache import Cache

    cache = Cache(str(path), chunk_bytes="64MB")
    for i, blob in enumerate(blobs):
        cache[i] = {"image": blob}
    cache.done()
    cache.merge()


def write_hf(blobs: Blobs, path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Value("large_binary")})
    datasets.Dataset.from_dict({"image": blobs}, features=features).save_to_disk(str(path))


def write_lance(blobs: Blobs, path: Path) -> None:
    import lance
    import pyarrow as pa

    lance.write_dataset(pa.table({"image": pa.array(blobs, pa.large_binary())}), str(path))


def write_deeplake3(blobs: Blobs, path: Path) -> None:
    import deeplake
    from deeplake.core.sample import Sample as Encoded

    ds = deeplake.empty(str(path), overwrite=True)
    with ds:
        ds.create_tensor("image", htype="image", sample_compression="jpeg")
        ds.image.extend([Encoded(buffer=blob, compression="jpeg") for blob in blobs])
    ds.commit("written")


def write_deeplake4(blobs: Blobs, path: Path) -> None:
    import deeplake

    ds = deeplake.create(str(path))
    ds.add_column("image", deeplake.types.Image(sample_compression="jpeg"))
    ds.append({"image": blobs})
    ds.commit("written")


WRITERS: dict[str, Callable[[Blobs, Path], None]] = {
    SUBJECT: write_lakefmt,
    "mosaicml": write_mosaicml,
    "litdata": write_litdata,
    "hf": write_hf,
    "lance": write_lance,
    "deeplake3": write_deeplake3,
    "deeplake4": write_deeplake4,
}


# --- readers of one sample ------------------------------------------------------------------------


def one_lakefmt(path: Path) -> ReadOne:
    import lakefmt

    image = lakefmt.dataset(str(path)).image
    return lambda i: image[i].tobytes()


def one_mosaicml(path: Path) -> ReadOne:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    ds = StreamingDataset(local=str(path), batch_size=1)
    return lambda i: ds[i]["image"]


def one_litdata(path: Path) -> ReadOne:
    import litdata

    ds = litdata.StreamingDataset(str(path))
    return lambda i: ds[i]["image"]


def one_hf(path: Path) -> ReadOne:
    import datasets

    ds: Any = datasets.load_from_disk(str(path))
    return lambda i: ds[i]["image"]


def one_lance(path: Path) -> ReadOne:
    import lance

    ds = lance.dataset(str(path))
    return lambda i: ds.take([i], columns=["image"])["image"][0].as_py()


def one_deeplake3(path: Path) -> ReadOne:
    import deeplake

    image = deeplake.load(str(path), read_only=True, verbose=False).image
    return lambda i: image[i].tobytes()


def one_deeplake4(path: Path) -> ReadOne:
    import deeplake

    ds = deeplake.open_read_only(str(path))
    column = ds["image"]

    def read(i: int, _alive: Any = ds) -> bytes:  # a column does not keep its dataset alive
        return bytes(column.get_bytes(i))

    return read


ONE: dict[str, Callable[[Path], ReadOne]] = {
    SUBJECT: one_lakefmt,
    "mosaicml": one_mosaicml,
    "litdata": one_litdata,
    "hf": one_hf,
    "lance": one_lance,
    "deeplake3": one_deeplake3,
    "deeplake4": one_deeplake4,
}


# --- the epoch ------------------------------------------------------------------------------------


def epoch_lakefmt(path: Path) -> Callable[[], Iterable[Sequence[Array]]]:
    import lakefmt

    loader = lakefmt.dataset(str(path)).dataloader().batch(BATCH).shuffle().numpy()
    return lambda: (batch["image"] for batch in loader)


def epoch_two_threads(folder: Path) -> Callable[[], Iterable[Sequence[Array]]]:
    """The limit: two threads decode every other JPEG each of a shuffled list in RAM, and drop the pixels."""
    from lakefmt.codecs import decode

    blobs = load(folder)

    def shapes(order: Array) -> list[Array]:
        return [np.broadcast_to(np.uint8(0), decode("jpeg", blobs[i]).shape) for i in order]

    def epoch() -> Iterable[Sequence[Array]]:
        order = np.random.default_rng().permutation(len(blobs))
        with ThreadPoolExecutor(2) as pool:
            yield from pool.map(shapes, (order[::2], order[1::2]))

    return epoch


TWO_THREADS = "two threads in RAM"

MEASURES = (
    Measure(
        "random",
        "One random JPEG's bytes, mean over 2,000 reads, files in the page cache",
        "ms",
        False,
        (
            Contender(SUBJECT, "`ds.image[i].tobytes()`", role="subject"),
            Contender("mosaicml", "`ds[i]` of a bytes column", "mosaicml"),
            Contender("litdata", "`ds[i]` of a bytes field, 64 MB chunks", "litdata"),
            Contender("hf", "`ds[i]` of a large_binary column", "hf"),
            Contender("lance", "`take([i])` of a large_binary column", "lance"),
            Contender("deeplake3", "`ds.image[i].tobytes()` of a jpeg image tensor", "deeplake3"),
            Contender("deeplake4", "`column.get_bytes(i)` of a jpeg Image column", "deeplake4"),
        ),
        (
            Target("no slower than MosaicML", "mosaicml", at_most=1.0),
            Target("no slower than HF", "hf", at_most=1.0),
            Target("ten times as fast as Lance", "lance", at_most=0.1),
        ),
    ),
    Measure(
        "epoch",
        "JPEGs a second in a shuffled, decoding epoch, RGB arrays, batch 64",
        "images/s",
        True,
        (
            Contender(SUBJECT, "`ds.dataloader().batch(64).shuffle().numpy()`", role="subject"),
            Contender(TWO_THREADS, "`lakefmt.codecs.decode` from two plain threads on bytes in RAM", role="limit"),
        ),
        (Target("at least 0.95 of the same decoder on two plain threads", TWO_THREADS, at_least=0.95),),
    ),
)


def write(task: Task) -> None:
    lookup(WRITERS, task.contender)(load(task.data_of("jpegs")), task.store_dir)


def measure(task: Task) -> Sample:
    return measure_epoch(task) if task.measure == "epoch" else measure_random(task)


def measure_random(task: Task) -> Sample:
    """Milliseconds of each of many random reads; the bytes are compared with the generator's, outside the
    timing.
    """
    stored = Stored(task.data_of("jpegs"))
    read = lookup(ONE, task.contender)(task.store_dir)
    rng = np.random.default_rng(1000 + task.repeat)
    for i in rng.integers(0, len(stored), WARM_READS).tolist():
        if bytes(read(i)) != stored[i]:
            raise AssertionError(f"the bytes of JPEG {i} are not the generator's")
    took: list[float] = []
    for i in rng.integers(0, len(stored), READS).tolist():
        start = time.perf_counter()
        got = bytes(read(i))
        took.append((time.perf_counter() - start) * 1000)
        if len(took) % 50 == 0 and got != stored[i]:
            raise AssertionError(f"the bytes of JPEG {i} are not the generator's")
    facts: dict[str, float | str] = {
        "median ms": statistics.median(took),
        "99th percentile ms": float(np.percentile(took, 99)),
    }
    return Sample(statistics.fmean(took), [statistics.fmean(took)], "ms, mean", facts)


def light(batch: Sequence[Array]) -> tuple[int, int]:
    """The batch's images and pixels (height times width)."""
    return len(batch), sum(int(image.shape[0] * image.shape[1]) for image in batch)


def measure_epoch(task: Task) -> Sample:
    folder = task.data_of("jpegs")
    pixels = Stored(folder).pixels
    epoch = epoch_lakefmt(task.store_dir) if task.contender == SUBJECT else epoch_two_threads(folder)
    for batch in epoch():
        light(batch)
    seconds = timed_epochs(epoch, light, (len(pixels), int(pixels.sum())))
    return epoch_sample(seconds, len(pixels), {})
