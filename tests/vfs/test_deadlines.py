"""A change whose storage hangs is answered in time and goes on by itself."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio

from depotfs.errors import StorageUnavailable
from depotfs.types import ANY, Expected, FileId
from tests.vfs.harness import FarMemory, Tree, mounted


class HangingMemory(FarMemory):
    """Removals do not answer before they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def remove(self, file_id: FileId, *, expect: Expected = ANY) -> None:
        self.let_go.wait(20)
        super().remove(file_id, expect=expect)


@pytest.mark.parametrize("call", ["unlink", "rename"])
def test_hung_change_is_answered_and_goes_on(call: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = HangingMemory()

    async def change(tree: Tree) -> None:
        if call == "unlink":
            await tree.fs.unlink(tree.directory, b"a.txt", 0)
        else:
            await tree.fs.rename(tree.directory, b"a.txt", tree.directory, b"b.txt", replace=True, pid=0)

    async def run() -> None:
        async with mounted(storage, tmp_path) as tree:
            await tree.write_file("a.txt", b"content")
            await tree.write_file("other.txt", b"other")
            tree.volume.remote.deadline = 1
            with pytest.raises(StorageUnavailable, match="goes on"):
                await change(tree)
            tree.volume.remote.deadline = 10
            assert await tree.read_file("other.txt") == b"other"
            storage.let_go.set()
            while not any("ended late: done" in record.message for record in caplog.records):
                await trio.lowlevel.checkpoint()
            with pytest.raises(FileNotFoundError):
                await tree.lookup("a.txt")
            if call == "rename":
                assert await tree.read_file("b.txt") == b"content"

    trio.run(run)
