"""A local storage in which somebody else put, or lost, something: found, told, mended, and never followed."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import stat as modes
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from depotfs.errors import AlreadyStored, FileNotStored, InvalidMetadata, VersionChanged
from depotfs.io.ids import new_uuid
from depotfs.io.local import LocalFileStorage
from depotfs.types import ABSENT, ANY, PRESENT, FileId
from tests.io.contract_sources import ABSENT_IDS, METADATA, content_of, put
from tests.io.faults import Steps

FILE, OTHER = ABSENT_IDS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def storage(root: Path) -> LocalFileStorage:
    return LocalFileStorage(root)


def _instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Damage to a file's directory: what has that name in it ("": the directory itself) is something else."""

    def damage(directory: Path) -> None:
        path = directory / name
        if name:
            path.unlink()
        else:
            shutil.rmtree(path)
        make(path)

    return damage


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


ELSEWHERE: Final = "../../elsewhere"
"""Beside the storage, as seen from a file's directory."""
KINDS: dict[str, Callable[[Path], object]] = {
    "a link to a file": lambda path: path.symlink_to(f"{ELSEWHERE}/file"),
    "a link to nowhere": lambda path: path.symlink_to("/nowhere/at/all"),
    "a directory": Path.mkdir,
    "a fifo": os.mkfifo,
    "a socket": lambda path: os.mknod(path, modes.S_IFSOCK | 0o666),
}
DAMAGES: dict[str, Callable[[Path], None]] = {
    "its content is lost": _instead("file", lambda path: None),
    "its directory is a link": _instead("", lambda path: path.symlink_to("../elsewhere")),
    "its directory is a link to nowhere": _instead("", lambda path: path.symlink_to("/nowhere")),
    "a terabyte of metadata": _instead("metadata.json", _sparse),
    **{f"content: {kind}": _instead("file", make) for kind, make in KINDS.items()},
    **{f"metadata: {kind}": _instead("metadata.json", make) for kind, make in KINDS.items()},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
class TestDamaged:
    """What is odd under one id is the defect of that id: found, told, replaceable, removable; and never followed."""

    @pytest.fixture(autouse=True)
    def _damaged(
        self, storage: LocalFileStorage, root: Path, tmp_path: Path, damage: Callable[[Path], None]
    ) -> Iterator[None]:
        put(storage, b"abc", FILE)
        self.bystander = put(storage, b"x", OTHER)
        elsewhere = tmp_path / "elsewhere"
        shutil.copytree(root / FILE, elsewhere)
        damage(root / FILE)
        yield
        assert content_of(storage, self.bystander) == b"x"
        assert (elsewhere / "file").read_bytes() == b"abc"
        assert len(list(elsewhere.iterdir())) == 2

    def test_is_told_as_its_own_defect(self, storage: LocalFileStorage) -> None:
        calls: list[Callable[[FileId], object]] = [storage.stat, storage.get, storage.open_content]
        for call in calls:
            with pytest.raises(InvalidMetadata, match=FILE):
                call(FILE)
        assert storage.exists(FILE)
        assert sorted(storage.list()) == sorted([FILE, OTHER])
        stats = {entry.file_id: entry.stat for page in storage.pages() for entry in page}
        assert stats == {FILE: None, OTHER: self.bystander}
        with pytest.raises(AlreadyStored):
            put(storage, b"new", FILE, expect=ABSENT)
        with pytest.raises(VersionChanged):
            put(storage, b"new", FILE, expect=self.bystander.version)

    @pytest.mark.parametrize("expect", [ANY, PRESENT], ids=["any", "present"])
    def test_can_be_replaced(self, storage: LocalFileStorage, root: Path, expect: str | None) -> None:
        stat = put(storage, b"new", FILE, expect=expect)
        assert (storage.stat(FILE), content_of(storage, FILE)) == (stat, b"new")
        assert sorted(path.name for path in root.iterdir()) == sorted([FILE, OTHER])

    def test_can_be_replaced_as_with_filedepot(self, storage: LocalFileStorage) -> None:
        storage.replace(FILE, b"new")
        file = storage.get(FILE)
        assert (file.read(), file.filename, file.content_type) == (b"new", "unnamed", "application/octet-stream")

    def test_another_file_can_move_over_it(self, storage: LocalFileStorage) -> None:
        moved = storage.move(self.bystander, FILE, METADATA, expect=PRESENT)
        assert (storage.list(), content_of(storage, moved)) == ([FILE], b"x")
        self.bystander = storage.move(moved, OTHER, METADATA)

    @pytest.mark.parametrize("expect", [ANY, PRESENT], ids=["any", "present"])
    def test_can_be_removed(self, storage: LocalFileStorage, root: Path, expect: str | None) -> None:
        storage.remove(FILE, expect=expect)
        assert not storage.exists(FILE)
        assert [path.name for path in root.iterdir()] == [OTHER]

    def test_can_be_removed_on_a_full_disk(
        self, storage: LocalFileStorage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Steps(1, _full, only="mkdir", onwards=True).install(monkeypatch)
        storage.remove(FILE)
        assert [path.name for path in root.iterdir()] == [OTHER]

    def test_is_nothing_to_flush_or_change(self, storage: LocalFileStorage, root: Path) -> None:
        with suppress(InvalidMetadata, FileNotStored):  # metadata alone need not be understood for this
            storage.sync(FILE)
        stat = dataclasses.replace(self.bystander, file_id=FILE)
        with pytest.raises(InvalidMetadata):
            storage.update(stat, filename="x")
        with pytest.raises(InvalidMetadata):
            storage.copy(stat, new_uuid(), METADATA)


def _full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
