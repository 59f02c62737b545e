"""Files and functions stay small enough to be read at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from house_imports import modules

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 80
METHODS_MAX = 60

_MODULES = sorted(modules().items())
_IDS = [m for m, _ in _MODULES]


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


@pytest.mark.parametrize(("module", "path"), _MODULES, ids=_IDS)
def test_file_length(module: str, path: object) -> None:
    lines = len(modules()[module].read_text().splitlines())
    assert lines < FILE_LINES_MAX, f"{path} has {lines} lines"


@pytest.mark.parametrize("module", _IDS)
def test_function_length(module: str) -> None:
    tree = ast.parse(modules()[module].read_text())
    long = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in _functions(tree)}
    assert {n: k for n, k in long.items() if k > FUNCTION_LINES_MAX} == {}


@pytest.mark.parametrize("module", _IDS)
def test_classes_are_no_god_classes(module: str) -> None:
    tree = ast.parse(modules()[module].read_text())
    counts = {c.name: sum(1 for _ in _functions(c)) for c in ast.walk(tree) if isinstance(c, ast.ClassDef)}
    assert {n: k for n, k in counts.items() if k > METHODS_MAX} == {}


@pytest.mark.parametrize("module", _IDS)
def test_documented_and_typed(module: str) -> None:
    """Every module says what it is; every public function is annotated."""
    tree = ast.parse(modules()[module].read_text())
    if not module.endswith("_version"):
        assert ast.get_docstring(tree), f"{module} has no docstring"
    bare = [f.name for f in _functions(tree) if f.returns is None]
    assert bare == []


def test_errors_are_one_tree_with_codes() -> None:
    import lakefmt.errors as errors

    classes = _errors()
    ours = [c for c in classes if issubclass(c, errors.LakeError)]
    assert len(ours) == len(classes) > 15
    assert len({c.code for c in ours}) == len(ours), "codes are stable names: each class has its own"
    for c in ours[1:]:
        builtin = [b for b in c.__mro__ if b.__module__ == "builtins" and b not in (Exception, BaseException, object)]
        assert builtin, f"{c.__name__} derives from no builtin that users would catch"


def _errors() -> list[type[Exception]]:
    import lakefmt.errors as errors

    found = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    return [c for c in found if not issubclass(c, Warning)]


@pytest.mark.parametrize("kind", _errors(), ids=lambda c: c.__name__)
def test_errors_show_their_message_and_survive_pickling(kind: type[Exception]) -> None:
    """A worker process's error must reach the user as it was."""
    import pickle

    import lakefmt.errors as errors

    if kind is errors.MissingExtra:
        error: Exception = kind("this", "images")
    elif issubclass(kind, errors.StoreError):
        error = kind(5, "the place: the message")
    else:
        error = kind("the place: the message")
    expected = "lakefmt[images]" if kind is errors.MissingExtra else "the place: the message"
    assert expected in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
