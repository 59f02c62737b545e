"""What a user may write for a dataset, and where it leads."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pytest

import lakefmt
from lakefmt.errors import InvalidInput, LakeError, MissingExtra, NoSuchDataset, StoreError
from lakefmt.storage import Address, FsspecStore, LocalStore, MemoryStore, branch_readings, open_store, parse_address


@pytest.mark.parametrize(
    ("text", "base", "at", "view"),
    [
        ("data", "data", None, None),
        ("/abs/data/", "/abs/data", None, None),
        ("./rel/data", "./rel/data", None, None),
        ("data@main", "data", "main", None),
        ("/abs/data@0123456789ab-7", "/abs/data", "0123456789ab-7", None),
        ("mem://name", "mem://name", None, None),
        ("mem://name@dev", "mem://name", "dev", None),
        ("hub://org/name@dev", "hub://org/name", "dev", None),
        ("s3://bucket/a/b@dev", "s3://bucket/a/b", "dev", None),
        ("ftp://user:pw@host/folder", "ftp://user:pw@host/folder", None, None),
        ("ftp://user:pw@host/folder@dev", "ftp://user:pw@host/folder", "dev", None),
        ("data/.queries/abc", "data", None, "abc"),
        ("data/.queries/abc/", "data", None, "abc"),
        ("data@dev/.queries/abc", "data", "dev", "abc"),
        ("s3://bucket/a/.queries/my-view.1", "s3://bucket/a", None, "my-view.1"),
    ],
)
def test_parse(text: str, base: str, at: str | None, view: str | None) -> None:
    assert parse_address(text) == Address(base, at, view)


@pytest.mark.parametrize(
    ("text", "base", "at"),
    [
        ("data@feature/x", "data", "feature/x"),
        ("mem://name@feature/x", "mem://name", "feature/x"),
        ("hub://org/name@feature/x", "hub://org/name", "feature/x"),
    ],
)
def test_a_branch_name_with_slashes_is_another_reading(text: str, base: str, at: str) -> None:
    assert parse_address(text) == Address(text, None, None)
    assert branch_readings(parse_address(text)) == [Address(base, at, None)]


@pytest.mark.parametrize("text", ["ftp://user:pw@host/folder", "data@main", "data", "mem://name"])
def test_other_addresses_have_one_reading(text: str) -> None:
    assert branch_readings(parse_address(text)) == []


def test_paths_are_addresses() -> None:
    assert parse_address(Path("some/data")) == Address("some/data")


@pytest.mark.parametrize("text", ["data", "data@dev", "data/.queries/v", "data@dev/.queries/v", "hub://a/b@x"])
def test_str_is_what_was_parsed(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("", "no dataset address"), ("   ", "no dataset address"), ("data@", "empty version"), ("mem://x@", "empty version"),
        ("data/.queries/", "saved view is addressed as"), ("data/.queries/a/b", "saved view is addressed as"),
    ],
)  # fmt: skip
def test_bad_addresses(bad: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse_address(bad)


@pytest.mark.parametrize(
    "bad",
    ["mem://", "mem:///", "mem:////", "s3:///", "file:///", "hub:///", "s3:", "s3:/bucket/set", "file:/tmp/set", "mem:/x@dev",
     Path("s3://bucket/set"), Path("hub://me/set")],
)  # fmt: skip
@pytest.mark.parametrize("use", [lakefmt.dataset, lakefmt.load, lakefmt.exists, lakefmt.delete, lakefmt.empty])
def test_what_is_left_of_a_url_is_no_folder(use: Any, bad: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAKEFMT_HUB", str(tmp_path))
    with pytest.raises(InvalidInput, match=r"is no dataset address: a URL is <scheme>://<name>"):
        use(bad)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_looks_so_is_still_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lakefmt.dataset("./s3:/bucket")
    assert lakefmt.exists(tmp_path / "s3:" / "bucket")
    assert parse_address("C:/data") == Address("C:/data")


@pytest.mark.parametrize("bad", ["a\0b", "\ud800", "mem://\ud800"])
@pytest.mark.parametrize("use", [lakefmt.dataset, lakefmt.load, lakefmt.exists, lakefmt.delete])
def test_names_that_no_file_can_have(use: Any, bad: str) -> None:
    with pytest.raises(InvalidInput, match="no dataset address"):
        use(bad)


@pytest.mark.parametrize("bad", [b"bytes", 5, None])
def test_things_that_are_no_text(bad: Any) -> None:
    with pytest.raises((InvalidInput, TypeError)):
        parse_address(bad)


@pytest.mark.parametrize(
    ("base", "kind"),
    [("data", LocalStore), ("file:///tmp/x", LocalStore), ("mem://x", MemoryStore), ("memory://x", MemoryStore),
     ("s3://bucket/x", FsspecStore)],
)  # fmt: skip
def test_open_store(base: str, kind: type) -> None:
    assert type(open_store(base)) is kind


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for written in ("~/sets/a", "file://~/sets/a"):
        assert open_store(written).local_path("k") == str(tmp_path / "sets" / "a" / "k")


def test_file_urls_are_paths(tmp_path: Path) -> None:
    lakefmt.dataset(f"file://{tmp_path}/set").create_tensor("x")
    assert lakefmt.exists(str(tmp_path / "set"))
    assert list(lakefmt.load(tmp_path / "set").tensors) == ["x"]


@pytest.mark.parametrize("bad", ["hub://", "hub://org", "hub://org/", "hub:///name"])
def test_hub_needs_both_names(bad: str) -> None:
    with pytest.raises(InvalidInput, match=r"hub://<org>/<dataset>"):
        open_store(bad)


@pytest.mark.parametrize("bad", ["hub://../../x/y", "hub://a/..", "hub://a/../../b", "hub://./x", "hub://a//b", "hub://a/b/../../../c"])
def test_nothing_leads_out_of_the_hub(bad: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAKEFMT_HUB", str(tmp_path / "deep" / "hub"))
    with pytest.raises(InvalidInput, match="without empty parts"):
        lakefmt.dataset(bad)
    assert list(tmp_path.iterdir()) == []


def test_the_hub_is_not_in_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEFMT_HUB", "hub://a/b")
    with pytest.raises(InvalidInput, match="set it to a folder"):
        lakefmt.exists("hub://me/set")


def test_hub_in_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAKEFMT_HUB", str(tmp_path / "hub"))
    with lakefmt.dataset("hub://me/set") as ds:
        ds.create_tensor("x", dtype="int64")
        ds.extend({"x": [1, 2]})
    assert ds.path == "hub://me/set"
    assert lakefmt.load(str(tmp_path / "hub" / "me" / "set")).x.numpy().tolist() == [1, 2]


def test_hub_on_any_url(monkeypatch: pytest.MonkeyPatch, s3_bucket: str, s3_options: dict[str, Any]) -> None:
    name = uuid.uuid4().hex
    monkeypatch.setenv("LAKEFMT_HUB", f"mem://{name}/")
    lakefmt.dataset("hub://me/set").create_tensor("x")
    assert list(lakefmt.load(f"mem://{name}/me/set").tensors) == ["x"]
    monkeypatch.setenv("LAKEFMT_HUB", f"s3://{s3_bucket}/hub")
    lakefmt.dataset("hub://me/set", storage_options=s3_options).create_tensor("y")
    assert list(lakefmt.load(f"s3://{s3_bucket}/hub/me/set", storage_options=s3_options).tensors) == ["y"]


def test_hub_in_the_users_data_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LAKEFMT_HUB", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    path = open_store("hub://me/set").local_path("k")
    assert path is not None
    assert path.startswith(str(tmp_path))
    assert path.endswith(os.path.join("lakefmt", "hub", "me", "set", "k"))


def test_at_a_branch_and_at_a_version(mem_url: str) -> None:
    with lakefmt.dataset(mem_url) as ds:
        ds.create_tensor("x", dtype="int64")
        ds.append({"x": 1})
        first = ds.commit("one")
        ds.checkout("feature/two", create=True)
        ds.append({"x": 2})
    assert lakefmt.load(f"{mem_url}@{first}").x.numpy().tolist() == [1]
    assert lakefmt.load(f"{mem_url}@main").x.numpy().tolist() == [1]
    assert lakefmt.load(f"{mem_url}@feature/two").x.numpy().tolist() == [1, 2]


def test_a_branch_with_a_slash_of_a_local_dataset(tmp_path: Path) -> None:
    with lakefmt.dataset(tmp_path / "set") as ds:
        ds.create_tensor("x", dtype="int64")
        ds.checkout("feature/two", create=True)
        ds.append({"x": 2})
    assert len(lakefmt.load(f"{tmp_path}/set@feature/two")) == 1
    assert len(lakefmt.load(f"{tmp_path}/set")) == 0


def test_a_dataset_under_a_folder_with_an_at_sign(tmp_path: Path) -> None:
    place = tmp_path / "me@work" / "set"
    with lakefmt.dataset(place) as ds:
        ds.create_tensor("x", dtype="int64")
        ds.append({"x": 1})
    assert lakefmt.exists(place)
    assert len(lakefmt.load(place)) == 1


@pytest.mark.parametrize("make", [lakefmt.dataset, lakefmt.load])
def test_a_version_of_nothing_creates_nothing(make: Any, tmp_path: Path) -> None:
    with pytest.raises(NoSuchDataset, match="no lakefmt dataset"):
        make(f"{tmp_path}/set@dev")
    assert not (tmp_path / "set").exists()
    assert not (tmp_path / "set@dev").exists()


def test_unknown_schemes() -> None:
    with pytest.raises(StoreError, match="nonsense://"):
        lakefmt.load("nonsense://somewhere")


def test_a_scheme_whose_client_is_not_installed() -> None:
    # adlfs is in no extra that the tests install; where it is, there is nothing to see
    try:
        import adlfs  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtra, match=r'pip install "lakefmt\[azure\]"'):
            lakefmt.load("az://container/set")
    else:
        pytest.skip("adlfs is installed")


def test_every_refusal_is_one_of_ours() -> None:
    for bad in ("", "hub://x", "x@", "nonsense://y"):
        with pytest.raises(LakeError):
            lakefmt.load(bad)
