"""Which share of an epoch this process takes: what the user said, or what those who started the processes know.

``distributed=True`` asks, in this order: ``torch.distributed``, where it is initialised; the environment, in the
names that torchrun, Slurm, Open MPI and MPICH give it; JAX, where ``jax.distributed`` is. Environment variables
alone change nothing that was not asked for: they are inherited by every process that a rank starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from lakefmt.errors import InvalidInput
from lakefmt.loaders import checks
from lakefmt.loaders.steps import Shard

#: (rank, world size) as launchers name them.
VARIABLES = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)


def share(distributed: Any, rank: Any, world_size: Any, shard: Any) -> Shard | None:
    """The share that these options name; ``None`` when they leave it open.

    Raises:
        InvalidInput: they contradict each other, or ask for what nobody here knows.
    """
    if distributed is not None:
        checks.truth("loader", "distributed", distributed)
    if shard is not None:
        if (rank, world_size) != (None, None) or distributed is not None:
            raise InvalidInput(f"loader(shard={shard!r}) says it all already; leave distributed, rank and world_size out")
        return Shard(*checks.pair("loader", "shard", shard))
    if (rank is None) != (world_size is None):
        raise InvalidInput(f"loader(rank={rank!r}, world_size={world_size!r}): give both, or with distributed=True neither")
    if distributed is not None and not distributed:
        if rank is not None:
            raise InvalidInput(f"loader(distributed=False, rank={rank!r}): leave one of them out")
        return Shard()
    if rank is not None:
        return Shard(checks.integer("loader", "rank", rank), checks.integer("loader", "world_size", world_size, least=1))
    if distributed is None:
        return None
    found = torch_share() or environment_share(os.environ) or _jax_share()
    if found is None:
        names = ", ".join(f"{r}/{w}" for r, w in VARIABLES)
        raise InvalidInput(
            "loader(distributed=True): neither torch.distributed nor jax.distributed is initialised here, and the environment has "
            f"none of {names}; initialise one first, or give rank= and world_size="
        )
    return found


def torch_share() -> Shard | None:
    """That of ``torch.distributed``, if it is initialised."""
    torch = sys.modules.get("torch")
    if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    return Shard(torch.distributed.get_rank(), torch.distributed.get_world_size())


def environment_share(environment: Mapping[str, str]) -> Shard | None:
    """That of the first launcher whose two variables are set.

    Raises:
        InvalidInput: they are no rank and world size.
    """
    for rank, world in VARIABLES:
        if rank in environment and world in environment:
            given = f"{rank}={environment[rank]!r}, {world}={environment[world]!r}"
            try:
                return Shard(int(environment[rank]), int(environment[world]))
            except (ValueError, InvalidInput) as e:
                raise InvalidInput(f"loader(distributed=True): the environment has {given}: {e}") from None
    return None


def _jax_share() -> Shard | None:
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return None
    return Shard(jax.process_index(), jax.process_count())
