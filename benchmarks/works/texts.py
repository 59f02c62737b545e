"""A shuffled epoch over texts of 30 words, in batches of 256 Python strings, one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.model import SUBJECT, Contender, Measure, Sample, Target, Task, lookup
from benchmarks.timing import Array, epoch_sample, timed_epochs, warm_epoch

TITLE = "Shuffled epoch over 100,000 texts of 30 words"
DATA = ("texts",)
BATCH = 256
WORDS = 30
VOCABULARY = 10_000

Texts = list[str]
Epoch = Callable[[], Iterable[Texts]]


def vocabulary() -> list[str]:
    """Pronounceable words of one to four syllables, the same every time."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    base = len(syllables)
    words = []
    for n in range(VOCABULARY):
        value = n * 2_654_435_761 % base**4
        digits = [value // base**k % base for k in range(1 + n % 4)]
        words.append("".join(syllables[d] for d in digits))
    return words


def generate(task: Task) -> None:
    rows = 10_000 if task.small else 100_000
    words = vocabulary()
    picks = np.random.default_rng(30).integers(0, len(words), (rows, WORDS)).tolist()
    texts = "\n".join(" ".join(words[i] for i in row) for row in picks)
    (task.data_of("texts") / "texts.txt").write_text(texts)


def load(folder: Path) -> Texts:
    return (folder / "texts.txt").read_text().split("\n")


# --- writers --------------------------------------------------------------------------------------


def write_lakefmt(texts: Texts, path: Path) -> None:
    import lakefmt

    ds = lakefmt.dataset(str(path))
    ds.create_tensor("text", htype="text")
    ds.extend({"text": texts})
    ds.commit("written")


def write_mosaicml(texts: Texts, path: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(path), columns={"text": "str"}) as writer:
        for text in texts:
            writer.write({"text": text})


def write_litdata(texts: Texts, path: Path) -> None:
    from litdata.streaming.cache import Cache

    cache = Cache(str(path), chunk_bytes="64MB")
    for i, text in enumerate(texts):
        cache[i] = {"text": text}
    cache.done()
    cache.merge()


def write_hf(texts: Texts, path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(str(path))


def write_lance(texts: Texts, path: Path) -> None:
    import lance
    import pyarrow as pa

    lance.write_dataset(pa.table({"text": texts}), str(path))


def write_deeplake3(texts: Texts, path: Path) -> None:
    import deeplake

    ds = deeplake.empty(str(path), overwrite=True)
    with ds:
        ds.create_tensor("text", htype="text")
        ds.text.extend(texts)
    ds.commit("written")


def write_deeplake4(texts: Texts, path: Path) -> None:
    import deeplake

    ds = deeplake.create(str(path))
    ds.add_column("text", deeplake.types.Text())
    ds.append({"text": texts})
    ds.commit("written")


def write_webdataset(texts: Texts, path: Path) -> None:
    import webdataset

    path.mkdir(parents=True)
    with webdataset.ShardWriter(f"{path}/%05d.tar", maxcount=10_000, verbose=0) as writer:
        for i, text in enumerate(texts):
            writer.write({"__key__": f"{i:08d}", "txt": text})


WRITERS: dict[str, Callable[[Texts, Path], None]] = {
    SUBJECT: write_lakefmt,
    "mosaicml": write_mosaicml,
    "litdata": write_litdata,
    "hf": write_hf,
    "lance": write_lance,
    "deeplake3": write_deeplake3,
    "deeplake4": write_deeplake4,
    "webdataset": write_webdataset,
}


# --- readers: open the dataset, and give a function that goes through one shuffled epoch ----------


def read_lakefmt(path: Path) -> Epoch:
    import lakefmt

    loader = lakefmt.dataset(str(path)).dataloader().batch(BATCH).shuffle().pytorch()
    return lambda: (batch["text"] for batch in loader)


def read_mosaicml(path: Path) -> Epoch:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    clean_stale_shared_memory()
    ds = StreamingDataset(local=str(path), shuffle=True, shuffle_algo="naive", batch_size=BATCH)
    loader: Any = DataLoader(ds, batch_size=BATCH)
    return lambda: (batch["text"] for batch in loader)


def read_litdata(path: Path) -> Epoch:
    import litdata

    ds = litdata.StreamingDataset(str(path), shuffle=True)
    loader = litdata.StreamingDataLoader(ds, batch_size=BATCH, num_workers=0)
    return lambda: (batch["text"] for batch in loader)


def read_hf(path: Path) -> Epoch:
    import datasets
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    ds: Any = datasets.load_from_disk(str(path))
    batches = BatchSampler(RandomSampler(ds), BATCH, False)
    loader: Any = DataLoader(ds, sampler=batches, batch_size=None, collate_fn=lambda batch: batch)
    return lambda: (batch["text"] for batch in loader)


def read_lance_torch(path: Path) -> Epoch:
    import lance
    from lance.torch.data import LanceDataset, ShardedBatchSampler

    def strings(batch: Any, **_: Any) -> Any:
        return {"text": batch["text"].to_pylist()}

    ds = LanceDataset(
        lance.dataset(str(path)),
        batch_size=BATCH,
        columns=["text"],
        sampler=ShardedBatchSampler(0, 1, randomize=True),
        to_tensor_fn=strings,
    )
    return lambda: (batch["text"] for batch in ds)


def read_lance_by_hand(path: Path) -> Epoch:
    import lance

    ds = lance.dataset(str(path))
    rows = ds.count_rows()

    def epoch() -> Iterator[Texts]:
        order = np.random.default_rng().permutation(rows)
        for start in range(0, rows, BATCH):
            yield ds.take(order[start : start + BATCH], columns=["text"])["text"].to_pylist()

    return epoch


def read_deeplake3(path: Path) -> Epoch:
    import deeplake

    def collate(rows: list[Any]) -> Texts:
        return [str(row["text"].item()) for row in rows]

    ds = deeplake.load(str(path), read_only=True, verbose=False)
    loader: Any = ds.pytorch(num_workers=0, batch_size=BATCH, shuffle=True, collate_fn=collate)
    return lambda: loader


def read_deeplake4_pytorch(path: Path) -> Epoch:
    import deeplake
    from torch.utils.data import DataLoader

    ds = deeplake.open_read_only(str(path))
    loader: Any = DataLoader(ds.pytorch(), batch_size=BATCH, shuffle=True)
    return lambda: (batch["text"] for batch in loader)


def read_deeplake4_batches(path: Path) -> Epoch:
    import deeplake

    ds = deeplake.open_read_only(str(path))
    return lambda: (list(batch["text"]) for batch in ds.query("SELECT * ORDER BY RANDOM()").batches(BATCH))


def read_webdataset(path: Path) -> Epoch:
    import webdataset

    shards = [str(p) for p in sorted(path.glob("*.tar"))]
    ds = webdataset.WebDataset(shards, shardshuffle=len(shards))
    ds = ds.shuffle(5000, initial=5000).decode().to_tuple("txt").batched(BATCH)
    loader: Any = webdataset.WebLoader(ds, batch_size=None, num_workers=0)
    return lambda: (batch[0] for batch in loader)


READERS: dict[str, Callable[[Path], Epoch]] = {
    SUBJECT: read_lakefmt,
    "mosaicml": read_mosaicml,
    "litdata": read_litdata,
    "hf": read_hf,
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
    Contender("hf", "string column, DataLoader over a BatchSampler, a batch a read, nothing to collate", "hf"),
    Contender("lance-torch", "lance.torch LanceDataset with ShardedBatchSampler(randomize=True)", "lance"),
    Contender("lance-by-hand", "`take` of 256 random rows, `to_pylist`", "lance"),
    Contender(
        "deeplake3",
        "`ds.pytorch(shuffle=True, num_workers=0)` with a collate that makes strings",
        "deeplake3",
    ),
    Contender("deeplake4-pytorch", "`ds.pytorch()` in a DataLoader(shuffle=True)", "deeplake4"),
    Contender("deeplake4-batches", "`ds.query('SELECT * ORDER BY RANDOM()').batches(256)`", "deeplake4"),
    Contender("webdataset", "tars of 10,000, shards shuffled, `.shuffle(5000)`, `.batched`, WebLoader", "webdataset"),
    Contender(IN_RAM, "DataLoader(list of str, batch_size=256, shuffle=True)", role="limit"),
)

MEASURES = (
    Measure(
        "epoch",
        "Texts a second in a shuffled epoch, lists of str, batch 256, num_workers=0",
        "texts/s",
        True,
        CONTENDERS,
        (
            Target(
                "2 times the best loader that a peer ships and that shuffles globally",
                "best peer",
                at_least=2.0,
                among=("shuffle spread", 0.9),
                shipped=True,
            ),
            Target(
                "2 times everything that shuffles globally, batches written by hand included",
                "best peer",
                at_least=2.0,
                among=("shuffle spread", 0.9),
            ),
            Target("faster than everything, whether it shuffles or not", "best peer", at_least=1.0),
        ),
    ),
)


def write(task: Task) -> None:
    lookup(WRITERS, task.contender)(load(task.data_of("texts")), task.store_dir)


def epoch_in_ram(texts: Texts) -> Epoch:
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(texts, batch_size=BATCH, shuffle=True)  # type: ignore[arg-type]
    return lambda: loader


def light(batch: Texts) -> tuple[int, int]:
    """The batch's rows and characters."""
    return len(batch), sum(map(len, batch))


def measure(task: Task) -> Sample:
    texts = load(task.data_of("texts"))
    in_ram = task.contender == IN_RAM
    epoch = epoch_in_ram(texts) if in_ram else lookup(READERS, task.contender)(task.store_dir)
    rows = {text: i for i, text in enumerate(texts)}

    def rows_of(batch: Texts) -> Array:
        if not all(type(text) is str for text in batch):
            raise AssertionError("a batch holds something else than str")
        return np.array([rows[text] for text in batch])

    spread = warm_epoch(epoch(), rows_of, len(texts))
    seconds = timed_epochs(epoch, light, (len(texts), sum(map(len, texts))))
    return epoch_sample(seconds, len(texts), {"shuffle spread": round(spread, 3)})
