"""The staging directory of a local storage: where a file's directory is built before it gets its place.

`<storage_path>/.depotfs/` is there only while somebody needs it. In it:

* `build-<random>`: being built, or taken out to be deleted. Its builder holds a flock on it; one that nobody
  locks was left by a process that died, and is swept by the next that stages.
* `old-<file id>`: only on file systems that cannot exchange two names: the old life of a file while the new one takes
  its place. If the place is empty, the process that swapped died, and the old one goes back (`restore`).
* `spool-<anything>`: a mount's; never touched here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Final

from depotfs import disk
from depotfs.io.localformat import CONTENT, METADATA

NAME: Final = ".depotfs"
_BUILD: Final = "build-"
_OLD: Final = "old-"
_NO_EXCHANGE: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""How file systems say that they cannot exchange two names."""


class Staging:
    """The staging directory of the storage in `root`. Constructing it does nothing. Errors are plain OSErrors."""

    def __init__(self, root: str) -> None:
        self.path = os.path.join(root, NAME)
        self._root = root
        self._lock = threading.Lock()  # around _swept and _held
        self._swept = False
        self._held: tuple[str, int] | None = None

    def hold(self) -> str:
        """The directory exists until `release`, even while it is empty; returns its path."""
        with self._lock:
            if self._held is None:
                self._held = self._make()
        self._sweep_once()
        return self.path

    def release(self) -> None:
        """Undoes `hold`; the directory goes if nobody needs it. Idempotent."""
        with self._lock:
            held, self._held = self._held, None
        if held is not None:
            discard(held[0])
            os.close(held[1])
        self._remove_if_idle()

    @contextmanager
    def building(self) -> Iterator[str]:
        """An empty directory of one's own; whatever is still in it afterwards is deleted."""
        self._sweep_once()
        path, fd = self._make()
        try:
            yield path
        finally:
            discard(path)
            os.close(fd)
            self._remove_if_idle()

    def take_out(self, place: str) -> str:
        """What was at `place` is at the path returned, for the caller to `clear_away`. FileNotFoundError: nothing was.

        It needs no lock: a sweep that finds it deletes what is to be deleted.
        """
        self._sweep_once()
        path = self._free_path()
        while True:
            try:
                os.rename(place, path)
                return path
            except FileNotFoundError:
                if not os.path.lexists(place) or os.path.islink(self.path):
                    raise
                with suppress(FileExistsError):
                    os.makedirs(self.path)

    def clear_away(self, path: str) -> None:
        """What was taken out is deleted, as far as that can be done."""
        discard(path)
        self._remove_if_idle()

    def swap(self, built: str, place: str) -> None:
        """`built` stands at `place`, and `built` names what was there; atomic for readers who know `restore`.

        The caller is alone in `disk.exclusive(root)`. Raises: FileNotFoundError if nothing is at `place`;
        FileExistsError if another file took the place meanwhile.
        """
        try:
            disk.exchange(built, place)
        except OSError as error:
            if error.errno not in _NO_EXCHANGE:
                raise
            self._swap_in_steps(built, place)

    def _swap_in_steps(self, built: str, place: str) -> None:
        self.restore(place, inside=True)
        old = self._old(place)
        os.rename(place, old)
        # A crash here leaves the place empty and the old file in `old`: `restore` puts it back.
        try:
            disk.rename_new(built, place)
        except OSError:
            self.restore(place, inside=True)
            raise
        with suppress(OSError):  # what stays in `old` is discarded by the next `restore`
            os.rename(old, built)

    def restore(self, place: str, *, inside: bool = False) -> bool:
        """A swap at `place` that was interrupted is undone, one that goes on is waited for. False: nothing is there.

        Args:
            inside: the caller is alone in `disk.exclusive(root)` already.
        """
        old = self._old(place)
        if not os.path.lexists(old):
            # A swap may have ended since the caller looked: then the file is whole, and to be looked at again.
            return os.path.exists(f"{place}/{METADATA}") and os.path.exists(f"{place}/{CONTENT}")
        with nullcontext() if inside else disk.exclusive(self._root):  # whoever swaps is in there
            try:
                disk.rename_new(old, place)
            except FileExistsError:
                discard(old)
            except FileNotFoundError:
                pass
        return True

    def restore_all(self) -> bool:
        """`restore` for every place. False: there was no swap."""
        names = [name for name in self._names() if name.startswith(_OLD)]
        return sum(self.restore(os.path.join(self._root, name.removeprefix(_OLD))) for name in names) > 0

    def _old(self, place: str) -> str:
        return f"{self.path}/{_OLD}{place.rpartition('/')[2]}"

    def _free_path(self) -> str:
        return f"{self.path}/{_BUILD}{secrets.token_hex(8)}"

    def _make(self) -> tuple[str, int]:
        while True:
            path = self._free_path()
            try:
                os.mkdir(path)
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:  # never made, or somebody else found it idle, or swept what was not locked yet
                if os.path.islink(self.path):
                    raise  # it leads nowhere, and nothing may be made there
                with suppress(FileExistsError):  # made by somebody else, and gone again when makedirs looked
                    os.makedirs(self.path)
                continue
            _lock(fd, fcntl.LOCK_EX)
            if os.path.lexists(path):
                return path, fd
            os.close(fd)  # swept between mkdir and flock

    def _remove_if_idle(self) -> None:
        with suppress(OSError):  # ENOTEMPTY: somebody stages; ENOENT: somebody was faster
            os.rmdir(self.path)

    def _sweep_once(self) -> None:
        with self._lock:
            if self._swept:
                return
            self._swept = True
        self.restore_all()
        for name in self._names():
            if name.startswith(_BUILD):
                _sweep(os.path.join(self.path, name))

    def _names(self) -> Sequence[str]:
        try:
            return os.listdir(self.path)
        except FileNotFoundError:
            return []


def _sweep(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        if _lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
            discard(path)
    finally:
        os.close(fd)


def _lock(fd: int, how: int) -> bool:
    """False: somebody has it, or the file system has no locks (then nothing is ever swept)."""
    try:
        fcntl.flock(fd, how)
    except OSError:
        return False
    return True


def discard(path: str) -> None:
    """Neither the directory nor what is in it exists any more, as far as that can be done; never raises OSError."""
    with suppress(OSError):
        for name in (METADATA, CONTENT):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(path, name))
        with suppress(FileNotFoundError):  # it got its place
            os.rmdir(path)
        return
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(path)
