"""The command line: ``lakefmt demo``, ``summary``, ``log``, ``bench``, ``fsck``."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the ``lakefmt`` command."""
    try:
        import click  # noqa: F401
    except ImportError:
        sys.exit('lakefmt: the command line needs an optional dependency: pip install "lakefmt[cli]"')
    from lakefmt.commands import cli
    from lakefmt.errors import LakeError

    try:
        cli()
    except LakeError as e:
        sys.exit(f"lakefmt: {e}")


if __name__ == "__main__":
    main()
