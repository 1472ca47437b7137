"""A session: one mount, from mount(2) to umount(2)."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import queue
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyfuse3
import trio

from depotfs.errors import DepotError
from depotfs.fuse import loop
from depotfs.fuse.operations import Operations
from depotfs.types import InodeNo
from depotfs.vfs.filesystem import DepotFilesystem

_log = logging.getLogger(__name__)

READ_AHEAD_KIB: Final = 1024
"""The kernel's read-ahead: the knee of throughput over window (requests of 1 MiB, the largest there are)."""
TASKS: Final = 512
"""Requests being answered at once, at most: a storage that hangs must not use up what the others need."""
BACKGROUND: Final = 256
"""Read-ahead and other requests that nobody waits for, at once: the kernel's 12 a storage that hangs would fill."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # <malloc.h>


class KernelNotifier:
    """Tells the kernel what it must not believe any more.

    A thread of its own does it, and nobody waits: the kernel answers only when it holds no lock on the directory,
    which it does while it waits for a handler.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[InodeNo, bytes] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kernel notifier", daemon=True)

    def start(self) -> None:
        """Mounted: there is somebody to tell."""
        self._thread.start()

    def entry_gone(self, directory: InodeNo, name: bytes) -> None:
        """The name leads elsewhere now."""
        self._queue.put((directory, name))

    def stop(self) -> None:
        """Unmounting: nobody needs to hear the rest."""
        self._queue.put(None)

    def _run(self) -> None:
        while (told := self._queue.get()) is not None:
            directory, name = told
            with contextlib.suppress(OSError, RuntimeError):  # ENOENT: not cached; EBADF: unmounted
                pyfuse3.invalidate_entry(pyfuse3.InodeT(directory), pyfuse3.FileNameT(name))


class MountRefused(DepotError):
    """The kernel or fusermount3 did not mount.

    Attributes:
        forbidden: this user may not.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.forbidden = bool(re.search("not permitted|permission|denied|not allowed", message, re.IGNORECASE))


class Session:
    """The mount of one tree.

    Args:
        mountpoint: absolute path of a directory.
        source: what the mount says that it is made of, in plain ASCII without commas.
        options: mount options beside ours, as `allow_other` or `ro`.
    """

    def __init__(
        self, filesystem: DepotFilesystem, notifier: KernelNotifier, mountpoint: str, source: str, options: set[str]
    ) -> None:
        self._filesystem = filesystem
        self._notifier = notifier
        self._mountpoint = mountpoint
        self._closed = False
        self._options = {*pyfuse3.default_options, f"fsname={source}", "subtype=depotfs", *options}

    def open(self) -> None:
        """Mounted; nobody answers yet. Raises MountRefused."""
        operations = Operations(self._filesystem)
        loop.install(operations.is_busy)
        tune_process()
        said: list[str] = []
        try:
            with _stderr_into(said):
                pyfuse3.init(operations, self._mountpoint, self._options)
        except RuntimeError as error:
            raise MountRefused(f"{self._mountpoint} cannot be mounted: {'; '.join(said) or error}") from error
        for line in said:
            _log.warning("%s", line)
        self._notifier.start()

    async def serve(self) -> None:
        """Answers until the tree is unmounted or `end` is called."""
        await pyfuse3.main(min_tasks=8, max_tasks=TASKS)

    async def wait_ready(self) -> None:
        """The mountpoint answers; from now on the kernel reads ahead as far as it may."""
        found = await trio.to_thread.run_sync(os.stat, self._mountpoint)
        widen_read_ahead(found.st_dev)
        allow_background(found.st_dev)

    def end(self) -> None:
        """`serve` returns soon, if it has not yet."""
        if not self._closed:
            pyfuse3.terminate()

    def close(self, *, mounted: bool) -> None:
        """Unmounted, if it still was `mounted`; files that are open elsewhere answer ENOTCONN from now on."""
        self._closed = True
        self._notifier.stop()
        pyfuse3.close(unmount=mounted)


@contextlib.contextmanager
def _stderr_into(lines: list[str]) -> Iterator[None]:
    """What is written to descriptor 2 meanwhile is in `lines`: libfuse and fusermount3 tell reasons only there."""
    kept, stderr = os.memfd_create("stderr"), os.dup(2)
    os.dup2(kept, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        lines += os.pread(kept, 1 << 16, 0).decode(errors="replace").splitlines()
        os.close(kept)


def widen_read_ahead(device: int) -> None:
    """The kernel's read-ahead of that mounted device is `READ_AHEAD_KIB`; it stays 128 KiB where we may not.

    Only after the first answer: the reply to INIT sets it to 128.
    """
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    with contextlib.suppress(OSError):
        path.write_text(str(READ_AHEAD_KIB))


def allow_background(device: int) -> None:
    """The kernel has up to `BACKGROUND` requests under way that nobody waits for; 12 where we may not say so."""
    directory = Path(f"/sys/fs/fuse/connections/{os.minor(device)}")
    with contextlib.suppress(OSError):
        (directory / "max_background").write_text(str(BACKGROUND))
        (directory / "congestion_threshold").write_text(str(BACKGROUND * 3 // 4))


def tune_process() -> None:
    """Buffers of a request are reused instead of mapped anew; a busy worker thread gives way to requests quickly."""
    sys.setswitchinterval(0.0002)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # glibc's maximum
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)
        # What one thread fetched and another one let go of is used again: a quarter of the page faults.
        libc.mallopt(_M_ARENA_MAX, 1)
