"""What `df` is told."""

import os
import threading
from pathlib import Path

import trio

from depotfs import disk
from depotfs.vfs.nodes import ROOT
from tests.vfs.harness import FarMemory, mounted


class Hanging(FarMemory):
    """Its disk does not answer before `back` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.back = threading.Event()

    def disk_path(self) -> str | None:
        self.asked.set()
        self.back.wait()
        return None


def test_a_disk_that_hangs_holds_up_nobody_else(tmp_path: Path) -> None:
    storage = Hanging()

    async def main() -> None:
        async with mounted(storage, tmp_path) as tree, trio.open_nursery() as nursery:
            nursery.start_soon(tree.fs.statfs)
            await trio.to_thread.run_sync(storage.asked.wait)
            assert await tree.fs.lookup(ROOT, b"docs", 0)
            storage.back.set()

    trio.run(main)


def test_no_more_is_free_than_the_limit_of_the_spool_leaves(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    limited = disk.limit_free(found, 10 * found.f_frsize + 1)
    assert (limited.f_bfree, limited.f_bavail) == (10, 10)
    assert (limited.f_blocks, limited.f_files, limited.f_ffree) == (found.f_blocks, found.f_files, found.f_ffree)
    assert disk.limit_free(found, 1 << 80).f_bavail == found.f_bavail
