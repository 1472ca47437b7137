"""The staging directory of a local storage: where a file's directory is built before it gets its place.

`depotfs.io.stagingplace` says where it is. It exists only while somebody needs it. In it:

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
import stat as modes
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from typing import Final

from depotfs import disk
from depotfs.io.localplace import discard
from depotfs.io.locks import Lock
from depotfs.io.stagingplace import Places

_BUILD: Final = "build-"
_OLD: Final = "old-"
_NO_EXCHANGE: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""How file systems say that they cannot exchange two names."""


class Entry:
    """A name in a staging directory.

    Attributes:
        path: of the staging directory; within: a descriptor of it; name: the entry's, whatever it stands for now;
        directory: a descriptor of the directory that it stood for at first, -1 where none was needed.
    """

    def __init__(self, path: str, within: int, name: str, directory: int = -1) -> None:
        self.path, self.within, self.name, self.directory = path, os.dup(within), name, directory

    def is_there(self) -> bool:
        return _is_in(self.within, self.name)

    def discard(self) -> None:
        """What the name stands for now is deleted, as far as that can be done."""
        discard(self.name, within=self.within)

    def close(self) -> None:
        if self.directory >= 0:
            os.close(self.directory)
        os.close(self.within)


class Staging:
    """The staging directory of the storage in `root`. Constructing it does nothing. Errors are plain OSErrors."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._places = Places(root)
        self._lock = Lock()  # around _swept and _held
        self._swept = False
        self._held: tuple[Entry, int] | None = None  # and the process that holds it

    def hold(self) -> str:
        """The directory exists until `release`, even while it is empty; returns its path."""
        with self._lock:
            if self._held is None or self._held[1] != os.getpid():
                self._held = self._places.use(_new), os.getpid()
            path = self._held[0].path
        self._sweep_once()
        return path

    def release(self) -> None:
        """Undoes `hold`; the directory goes if nobody needs it. Idempotent."""
        with self._lock:
            held, self._held = self._held, None
        if held is not None:
            with closing(held[0]) as entry:
                if held[1] == os.getpid():
                    entry.discard()
        self._places.remove_if_idle()

    @contextmanager
    def building(self) -> Iterator[Entry]:
        """An empty directory of one's own; what its name stands for afterwards is deleted."""
        self._sweep_once()
        with closing(self._places.use(_new)) as entry:
            try:
                yield entry
            finally:
                entry.discard()
        self._places.remove_if_idle()

    @contextmanager
    def staged(self, path: str) -> Iterator[Entry | None]:
        """The directory of that path as an entry here, None if it is not in a staging directory of this storage."""
        entry = self._find(*os.path.split(path))
        if entry is None:
            yield None
            return
        with closing(entry):
            yield entry
        self._places.remove_if_idle()

    def _find(self, around: str, name: str) -> Entry | None:
        with self._places.existing() as existing:
            for path, within in existing:
                if path == around or os.path.realpath(path) == os.path.realpath(around):
                    return _opened(path, within, name)
        return None

    def take_out(self, place: str) -> Entry:
        """What was at `place` is the entry returned, for the caller to clear away. FileNotFoundError: nothing was.

        It needs no lock: a sweep that finds it deletes what is to be deleted.
        """
        self._sweep_once()
        taken = self._places.use(lambda path, within: _taken(path, within, place))
        if taken is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
        return taken

    def clear_away(self, entry: Entry) -> None:
        """What was taken out is deleted, as far as that can be done."""
        with closing(entry):
            entry.discard()
        self._places.remove_if_idle()

    # --- giving a place ----------------------------------------------------------------------------------------

    def place_new(self, entry: Entry, place: str) -> None:
        """The entry stands at `place`, where nothing was. Raises FileExistsError."""
        with self._places.renaming():
            disk.rename_new(entry.name, place, source_in=entry.within)

    def swap(self, entry: Entry, place: str) -> None:
        """The entry stands at `place`, and its name for what was there; atomic for readers who know `restore`.

        The caller is alone in `disk.exclusive(root)`. Raises: FileNotFoundError if nothing is at `place`;
        FileExistsError if another file took the place meanwhile.
        """
        try:
            with self._places.renaming():
                disk.exchange(entry.name, place, one_in=entry.within)
        except OSError as error:
            if error.errno not in _NO_EXCHANGE:
                raise
            self._swap_in_steps(entry, place)

    def _swap_in_steps(self, entry: Entry, place: str) -> None:
        self.restore(place, inside=True)
        old = _old(place)
        with self._places.renaming():
            os.rename(place, old, dst_dir_fd=entry.within)
        # A crash here leaves the place empty and the old file in `old`: `restore` puts it back.
        try:
            disk.rename_new(entry.name, place, source_in=entry.within)
        except OSError:
            self.restore(place, inside=True)
            raise
        with suppress(OSError):  # what stays in `old` is discarded by the next `restore`
            os.rename(old, entry.name, src_dir_fd=entry.within, dst_dir_fd=entry.within)

    # --- what others left --------------------------------------------------------------------------------------

    def restore(self, place: str, *, inside: bool = False) -> bool:
        """A swap at `place` that was interrupted is undone, one that goes on is waited for. False: nothing is there.

        Args:
            inside: the caller is alone in `disk.exclusive(root)` already.
        """
        old = _old(place)
        if any(os.path.lexists(f"{path}/{old}") for path in self._places.paths()):
            with (
                nullcontext() if inside else disk.exclusive(self._root),  # whoever swaps is in there
                self._places.existing() as existing,
            ):
                for _, within in existing:
                    _put_back(within, old, place)
        # A swap may have ended since the caller looked: then the file is to be looked at again.
        return _is_directory(place)

    def restore_all(self) -> bool:
        """`restore` for every place. False: there was no swap."""
        names = {name for name in self._names() if name.startswith(_OLD)}
        return sum(self.restore(os.path.join(self._root, name.removeprefix(_OLD))) for name in names) > 0

    def _sweep_once(self) -> None:
        with self._lock:
            if self._swept:
                return
            self._swept = True
        self.restore_all()
        with self._places.existing() as existing:
            for _, within in existing:
                for name in os.listdir(within):
                    if name.startswith(_BUILD):
                        _sweep(within, name)

    def _names(self) -> list[str]:
        with self._places.existing() as existing:
            return [name for _, within in existing for name in os.listdir(within)]


def _old(place: str) -> str:
    return _OLD + place.rpartition("/")[2]


def _free_name() -> str:
    return _BUILD + secrets.token_hex(8)


def _new(path: str, within: int) -> Entry:
    """A new directory there, locked. FileNotFoundError: the staging directory, or this one, was removed by others."""
    name = _free_name()
    os.mkdir(name, dir_fd=within)
    directory = disk.open_directory(name, within=within)
    try:
        _lock(directory, fcntl.LOCK_EX)
        os.stat(name, dir_fd=within, follow_symlinks=False)  # or it was swept between mkdir and flock
        return Entry(path, within, name, directory)
    except BaseException:
        os.close(directory)
        raise


def _opened(path: str, within: int, name: str) -> Entry | None:
    """The directory of that name; None: there is none, or it cannot be used."""
    try:
        directory = disk.open_directory(name, within=within)
    except OSError:
        return None
    try:
        return Entry(path, within, name, directory)
    except OSError:
        os.close(directory)
        return None


def _taken(path: str, within: int, place: str) -> Entry | None:
    """What was at the place as an entry; None: there is nothing."""
    name = _free_name()
    try:
        os.rename(place, name, dst_dir_fd=within)
    except FileNotFoundError:
        if os.path.lexists(place):
            raise  # it was the staging directory that others removed
        return None
    return Entry(path, within, name)


def _put_back(within: int, old: str, place: str) -> None:
    try:
        disk.rename_new(old, place, source_in=within)
    except FileExistsError:
        discard(old, within=within)
    except FileNotFoundError:
        pass


def _is_in(within: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=within, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_directory(path: str) -> bool:
    try:
        return modes.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _sweep(within: int, name: str) -> None:
    try:
        directory = disk.open_directory(name, within=within)
    except NotADirectoryError:
        discard(name, within=within)  # taken out of the storage, where it was none of its files
        return
    except OSError:
        return
    try:
        if _lock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB):
            discard(name, within=within)
    finally:
        os.close(directory)


def _lock(fd: int, how: int) -> bool:
    """False: somebody has it, or the file system has no locks (then nothing is ever swept)."""
    try:
        fcntl.flock(fd, how)
    except OSError:
        return False
    return True
