"""What lies in the mountpoint is found, whatever name it goes by."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from depotfs.daemon import nesting
from depotfs.daemon.backends import LOCAL
from depotfs.daemon.settings import Settings, StorageSettings
from depotfs.errors import ConfigurationError
from tests.daemon.fuse_mount import dead_mount


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mountpoint, with the spool beside it."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    (tmp_path / "real" / "mnt").mkdir(parents=True)
    return (tmp_path / "real" / "mnt").resolve()


def settings(path: Path | str, backend: str = LOCAL, key: str = "storage_path") -> Settings:
    return Settings((StorageSettings("files", backend, {key: str(path)}),), "files")


def test_what_lies_beside_it_is_fine(where: Path) -> None:
    for path in (where.parent, where.with_name("mnt2"), where / ".." / "files", "/"):
        nesting.check(settings(path), str(where), str(where.with_name("log")))
    nesting.check(settings(where, "depotfs.io.boto3.S3Storage", "prefix"), str(where))


@pytest.mark.parametrize("below", ["", "files", "a/b"])
def test_every_place_in_it_is_named(where: Path, below: str) -> None:
    path = where / below
    for wrong, start in (
        (settings(path), "storage files: storage_path "),
        (settings(path, "depotfs.io.gcs.GCSStorage", "credentials"), "storage files: credentials "),
        (settings(path, "own.Storage", "directory"), "storage files: directory "),
        (Settings((), "", spool_directory=str(path)), "the spool "),
        (Settings((), "", python_path=(str(path),)), "python_path: "),
    ):
        with pytest.raises(ConfigurationError) as caught:
            nesting.check(wrong, str(where))
        assert str(caught.value).startswith(f"{start}{path} lies in the mountpoint {where}: ")
    with pytest.raises(ConfigurationError, match=r"storage files.*\nthe log file"):
        nesting.check(settings(path), str(where), str(where / "log"))


def test_symbolic_links_are_looked_through(where: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(where.parent)
    (where / "out").symlink_to(tmp_path)
    assert nesting.is_within(str(tmp_path / "link" / "mnt" / "files"), str(where))
    assert nesting.is_within(str(where / "out" / "files"), str(where)), "the link itself is in it"


@contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", source, target], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root binds directories")
def test_bind_mounts_are_looked_through(where: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with bound(where.parent, other):
        assert nesting.is_within(str(other / "mnt" / "files"), str(where))
        assert not nesting.is_within(str(other / "files"), str(where))
    assert not nesting.is_within(str(other / "mnt" / "files"), str(where))


def test_a_dead_mount_is_not_asked(where: Path) -> None:
    with dead_mount(where):
        assert nesting.is_within(str(where / "files"), str(where))
        assert not nesting.is_within(str(where.parent / "files"), str(where))
