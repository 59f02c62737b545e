"""Writes the conflict table of ``lakefmt.versioning.conflicts`` into LOG.md: ``python spec/make_table.py``."""

from __future__ import annotations

from pathlib import Path

from lakefmt.versioning.conflicts import TABLE

LOG = Path(__file__).parent / "LOG.md"
HEAD = "| mine \\ theirs |"


def table() -> list[str]:
    """The table as lines of Markdown."""
    columns = list(TABLE)
    lines = [f"{HEAD} {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for mine, row in TABLE.items():
        cells = ["" if row[theirs] == "commutes" else f" {row[theirs]}" for theirs in columns]
        lines.append(f"| {mine} |{' |'.join(cells)} |")
    return lines


def main() -> None:
    """Replace the table that stands there."""
    lines = LOG.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(HEAD))
    stop = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    LOG.write_text("\n".join([*lines[:start], *table(), *lines[stop:]]) + "\n")


if __name__ == "__main__":
    main()
