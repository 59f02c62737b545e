"""Who imports whom, read from the source without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = {"lakefmt": ROOT / "lakefmt", "lakefmt.versioning": ROOT / "versioning", "lakefmt.query": ROOT / "query",
            "lakefmt.loaders": ROOT / "loaders"}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """``source`` (a module) imports ``target`` (a module of ours, or a foreign top-level name) at ``line``."""

    source: str
    target: str
    line: int
    local: bool
    typing_only: bool
    level: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def modules() -> dict[str, Path]:
    """Every module of the project by its name."""
    out: dict[str, Path] = {}
    for package, folder in _FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder)
            if package == "lakefmt" and inside.parts[0] in ("versioning", "query", "loaders"):
                continue  # the committed links
            parts = [*package.split("."), *inside.with_suffix("").parts]
            out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


def imports() -> list[Import]:
    """Every import statement of the project."""
    known = modules()
    found = []
    for name, path in known.items():
        tree = ast.parse(path.read_text(), str(path))
        found += list(_walk(tree, name, known, local=False, typing_only=False))
    return found


def _walk(node: ast.AST, source: str, known: dict[str, Path], *, local: bool, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(source, _module(alias.name, known), child.lineno, local, typing_only, 0)
        elif isinstance(child, ast.ImportFrom):
            for alias in child.names:
                target = _module(f"{child.module or ''}.{alias.name}", known)
                yield Import(source, target, child.lineno, local, typing_only, child.level)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from _walk(child, source, known, local=local, typing_only=True)
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _walk(child, source, known, local=local or inside, typing_only=typing_only)


def _module(dotted: str, known: dict[str, Path]) -> str:
    """The module of ours that a dotted name lies in, else its first part."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in known:
            return ".".join(parts[:end])
    return parts[0]
