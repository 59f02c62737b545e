"""The wheel has everything under ``lakefmt``, nothing beside it, and works where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from house_imports import ROOT, modules

_LEAVE_OUT = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "tests", "benchmarks", "examples", "lakefmt-demo", "docs"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, so that nothing is left in it."""
    pytest.importorskip("build", reason="building a wheel needs: pip install 'lakefmt[dev]'")
    source, out = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, source, symlinks=True, ignore=_LEAVE_OUT)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (found,) = out.glob("*.whl")
    return found


def test_content(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
    tops = {n.split("/")[0] for n in names}
    assert tops == {"lakefmt", next(t for t in tops if t.endswith(".dist-info"))}, "nobody's site-packages gets a `query`"
    assert "lakefmt/py.typed" in names
    assert len(names) == len(set(names)), "no file twice"
    for module in modules():
        path = module.replace(".", "/")
        assert f"{path}.py" in names or f"{path}/__init__.py" in names, f"{module} is missing"


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as z:
        (name,) = (n for n in z.namelist() if n.endswith(".dist-info/METADATA"))
        text = z.read(name).decode()
        entry_points = next((z.read(n).decode() for n in z.namelist() if n.endswith("entry_points.txt")), "")
        assert any("LICENSE" in n for n in z.namelist())
    import lakefmt

    assert f"\nVersion: {lakefmt.__version__}\n" in text
    assert "Requires-Python: >=3.11" in text
    assert "lakefmt = lakefmt.cli:main" in entry_points


_USE = """
import sys, lakefmt, lakefmt.query, lakefmt.loaders, lakefmt.versioning, lakefmt.versioning.log
for m in (lakefmt, lakefmt.query, lakefmt.loaders, lakefmt.versioning):
    assert m.__file__.startswith(sys.argv[1]), m.__file__
for bare in ("query", "loaders", "versioning"):
    try:
        __import__(bare)
    except ImportError:
        continue
    raise SystemExit(f"a bare {bare} can be imported")
ds = lakefmt.dataset(sys.argv[2])
ds.create_tensor("x", dtype="int64")
ds.extend({"x": [1, 2, 3]})
ds.commit("three")
assert ds.query("x > 1").x.numpy().tolist() == [2, 3]
print("works")
"""


def test_installed_elsewhere(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    (tmp_path / "elsewhere").mkdir()
    env = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, "-c", _USE, str(target), str(tmp_path / "set")]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "works"
