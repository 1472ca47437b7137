"""A storage that is down and comes back: what waits to be stored is stored as soon as it can be asked again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from depotfs.errors import StorageUnavailable
from depotfs.remote.health import LONGEST_DELAY
from depotfs.vfs.options import VolumeOptions
from tests.remote.virtual import run_virtually
from tests.vfs.harness import FarMemory, Tree, mounted


class Reachable(FarMemory):
    """Memory that can be out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    def _reach(self) -> None:
        if self.away:
            raise StorageUnavailable("connection refused")

    def stat(self, *args: Any) -> Any:
        self._reach()
        return super().stat(*args)

    def put(self, *args: Any, **options: Any) -> Any:
        self._reach()
        return super().put(*args, **options)


def run(
    monkeypatch: pytest.MonkeyPatch, directory: Path, test: Callable[[Tree, Reachable], Awaitable[None]]
) -> Reachable:
    storage = Reachable()

    async def main() -> None:
        async with mounted(storage, directory, VolumeOptions(background=True)) as tree:
            await test(tree, storage)

    run_virtually(monkeypatch, main)
    return storage


def test_what_failed_during_an_outage_is_stored_when_the_storage_is_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def test(tree: Tree, storage: Reachable) -> None:
        storage.away = True
        await tree.write_file("a.txt", b"kept")
        await trio.sleep(1000)  # by now it is tried every five minutes
        assert tree.volume.remote.health.down == "connection refused"
        assert await tree.read_file("a.txt") == b"kept"
        storage.away = False
        await trio.sleep(LONGEST_DELAY + 1)
        assert [bytes(file["data"]) for file in storage.files.values()] == [b"kept"]

    run(monkeypatch, tmp_path, test)


def test_an_end_looks_whether_the_storage_is_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def test(tree: Tree, storage: Reachable) -> None:
        storage.away = True
        await tree.write_file("a.txt", b"kept")
        await trio.sleep(1000)
        storage.away = False

    storage = run(monkeypatch, tmp_path, test)
    assert [bytes(file["data"]) for file in storage.files.values()] == [b"kept"]
