"""``lakefmt bench``: the chain that its options mean, measured."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lakefmt.errors import InvalidInput


def bench_path(
    path: str,
    *,
    batch_size: int = 64,
    tensors: Sequence[str] = (),
    shuffle: bool = True,
    transform: str | None = None,
    workers: int = 0,
    seconds: float = 3.0,
) -> Any:
    """Measure a loader over the dataset or saved view at ``path``; see ``lakefmt.loaders.bench``.

    Args:
        transform: ``module:function``, found as Python finds modules, in the working folder too.
        seconds: time for each measurement.

    Raises:
        InvalidInput: there is no such function, or nothing to load.
    """
    from lakefmt import load
    from lakefmt.loaders.bench import bench
    from lakefmt.loaders.options import ReadOptions

    chain = load(path, read_only=True).dataloader().batch(batch_size)
    if shuffle:
        chain = chain.shuffle()
    if transform is not None:
        chain = chain.transform(_function(transform))
    return bench(chain, ReadOptions(tensors=list(tensors) or None, num_workers=workers), seconds)


def _function(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise InvalidInput(f"--transform {name!r}: give module:function, as in augment:crop")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as e:
        raise InvalidInput(f"--transform {name!r}: {e}") from e
    if not callable(found):
        raise InvalidInput(f"--transform {name!r}: that is {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]
