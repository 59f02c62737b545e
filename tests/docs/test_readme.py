"""Every Python example of README.md and docs/ runs, in order, as one session."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks, f"{page.name} has no example"
    script = tmp_path / "examples.py"
    script.write_text("\n".join(blocks))
    env = {**os.environ, "LAKEFMT_HUB": str(tmp_path / "hub"), "PYTHONWARNINGS": "error::DeprecationWarning"}
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


def test_readme_names_exactly_two_make_commands() -> None:
    section = (ROOT / "README.md").read_text().split("## Two commands", 1)[1].split("##", 1)[0]
    assert re.findall(r"^make \w+", section, re.MULTILINE) == ["make demo", "make test"]
