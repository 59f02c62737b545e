"""The conflict table in spec/LOG.md is the one in the code."""

from __future__ import annotations

from pathlib import Path

from lakefmt.versioning.conflicts import TABLE

LOG = Path(__file__).parents[2] / "spec" / "LOG.md"


def test_specified_table_is_the_code() -> None:
    section = LOG.read_text().split("## 5.")[1].split("## 6.")[0]
    lines = [[c.strip() for c in line.strip().strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    header, body = lines[0][1:], lines[2:]
    written = {row[0]: dict(zip(header, row[1:], strict=True)) for row in body}
    coded = {
        str(mine): {str(theirs): "" if rule == "commutes" else rule for theirs, rule in row.items()}
        for mine, row in TABLE.items()
    }
    assert written == coded
