"""``ds.pytorch(...)`` and its like: a chain's steps as keyword arguments of one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakefmt.errors import InvalidInput
from lakefmt.loaders import checks

if TYPE_CHECKING:
    from lakefmt.loaders.builder import Loader


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The steps of a chain.

    Attributes:
        batch_size: rows of a batch; ``None`` for single rows.
        drop_last: leave the last batch out where it is short.
        shuffle: another order every epoch; see ``Loader.shuffle``.
        buffer_size: MB that a window order mixes at a time.
        transform: a function per tensor (a dict, which also selects tensors) or of the whole row; see ``Loader.transform``.
        transform_kwargs: further keyword arguments for the functions.
    """

    batch_size: int | None = 1
    drop_last: bool = False
    shuffle: bool = False
    buffer_size: float = 2048
    transform: Any = None
    transform_kwargs: Mapping[str, Any] | None = None

    def apply(self, chain: Loader) -> Loader:
        """The chain with these steps said."""
        if self.transform_kwargs is not None and self.transform is None:
            raise InvalidInput("transform_kwargs are for the functions of transform=, which is not given")
        checks.by_tensor("loader", "transform_kwargs", self.transform_kwargs)
        if self.batch_size is not None:
            chain = chain.batch(self.batch_size, self.drop_last)
        if checks.truth("loader", "shuffle", self.shuffle):
            chain = chain.shuffle(buffer_size=self.buffer_size)
        if self.transform is not None:
            chain = chain.transform(self.transform, **(self.transform_kwargs or {}))
        return chain


def shortened(chain: Loader, given: Mapping[str, Any]) -> tuple[Loader, dict[str, Any]]:
    """The chain with the steps among ``given`` said, and the options that are left for its face."""
    own = {name: value for name, value in given.items() if name in Steps.__slots__}
    return Steps(**own).apply(chain), {name: value for name, value in given.items() if name not in own}
