"""Where the staging directory of a local storage is: beside the storage, or inside it where that cannot be.

Beside, at `<parent>/.<name>.depotfs`, nobody who lists the storage sees it; filedepot takes every name in a storage for
a file. It must then be as good a place as the storage itself: renames lead from one to the other, what is made there
gets the same owner's group, access and labels, and nobody else may have made it, for whoever owns a directory can
exchange what is in it. The parent of a storage may be a place like /tmp. Errors are plain OSErrors.
"""

from __future__ import annotations

import errno
import logging
import os
import stat as modes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

from depotfs import disk

T = TypeVar("T")

_log = logging.getLogger(__name__)

INSIDE: Final = ".depotfs"
_RACES: Final = 100
"""How often the directory is made again because others found it idle just then, and removed it."""
_INHERITED: Final = ("system.posix_acl_default", "security.selinux")
"""Extended attributes of a directory that decide about access to what is made in it."""
_ROOT_USER: Final = 0


class Places:
    """Both places for the storage in `root`. Constructing it does nothing."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._inside = os.path.join(root, INSIDE)
        self._beside: tuple[os.stat_result, str] | None = None  # what is at `root`, and the place beside it
        self._fitted = False  # one beside was found, or made, to be good once
        self._apart = False  # no rename leads from beside into the storage
        self._warned = False

    def use(self, act: Callable[[str, int], T]) -> T:
        """What `act` gives for path and descriptor of the staging directory, which is made if need be."""
        if not self._apart:
            with suppress(OSError):
                return self._use(act, beside=True)
        try:
            return self._use(act, beside=False)
        except BaseException:
            self.remove_if_idle()
            raise

    @contextmanager
    def renaming(self) -> Iterator[None]:
        """Inside, something is renamed between the staging directory and the storage.

        If that cannot be, the directory inside is used from now on. What `_check_renames` does not find out is that
        only one of the two has a quota or is encrypted.
        """
        try:
            yield
        except OSError as error:
            self._apart = self._apart or error.errno == errno.EXDEV
            raise

    def _use(self, act: Callable[[str, int], T], *, beside: bool) -> T:
        for _ in range(_RACES):
            try:
                path, fd = self._make(beside=beside)
                try:
                    return act(path, fd)
                finally:
                    os.close(fd)
            except FileNotFoundError as error:
                gone = error
        raise gone

    def paths(self) -> list[str]:
        """Both places, whatever is there; the one inside alone while there is no storage."""
        with suppress(FileNotFoundError):
            return [self._path(beside=True), self._inside]
        return [self._inside]

    @contextmanager
    def existing(self) -> Iterator[list[tuple[str, int]]]:
        """Paths and descriptors of the staging directories that are there and may be used; open while inside."""
        found: list[tuple[str, int]] = []
        try:
            for beside in (True, False):
                with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    path = self._path(beside=beside)
                    found.append((path, self._open(path, beside=beside)))
            yield found
        finally:
            for _, fd in found:
                os.close(fd)

    def remove_if_idle(self) -> None:
        """Staging directories with nothing in them are gone."""
        for beside in (True, False):
            with suppress(OSError):  # ENOTEMPTY: somebody stages; ENOENT: somebody was faster
                os.rmdir(self._path(beside=beside))

    def _path(self, *, beside: bool) -> str:
        if not beside:
            return self._inside
        root = os.stat(self._root)
        if self._beside is None or not os.path.samestat(self._beside[0], root):
            parent, name = os.path.split(os.path.realpath(self._root))
            self._beside = root, f"{parent}/.{name}{INSIDE}"
        return self._beside[1]

    def _open(self, path: str, *, beside: bool) -> int:
        try:
            fd = disk.open_directory(path)
        except NotADirectoryError:
            self._warn(path, "it is no directory")
            raise
        try:
            if beside:
                self._check_owner(path, os.fstat(fd).st_uid)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check_owner(self, path: str, owner: int) -> None:
        """PermissionError, unless it is one who could change the storage anyway."""
        if owner not in (_ROOT_USER, os.geteuid()) and owner != os.stat(self._root).st_uid:
            self._warn(path, "it belongs to somebody else")
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)

    def _warn(self, path: str, why: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("%s is not used for what is being stored in %s: %s", path, self._root, why)

    def _make(self, *, beside: bool) -> tuple[str, int]:
        try:
            path = self._path(beside=beside)
            new = _made(path)
        except FileNotFoundError:
            os.makedirs(self._root, exist_ok=True)
            raise
        fd = self._open(path, beside=beside)
        try:
            if beside:
                self._fit(fd, new=new)
        except BaseException:
            os.close(fd)
            raise
        return path, fd

    def _fit(self, fd: int, *, new: bool) -> None:
        """It is as good as the storage's own directory. OSError if it cannot be."""
        own, root = os.fstat(fd), os.stat(self._root)
        if not modes.S_ISDIR(root.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self._root)
        _take_over(fd, own, root)
        if self._fitted and not new:
            return  # whoever made it saw to the rest
        self._check_renames(fd, own, root)
        for name in _INHERITED:
            _take_over_attribute(fd, self._root, name)
        self._fitted = True

    def _check_renames(self, fd: int, own: os.stat_result, root: os.stat_result) -> None:
        try:
            os.rename(".", f"{self._root}/.", src_dir_fd=fd)  # never done; but first it is found out whether it can be
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise
        if own.st_dev != root.st_dev:  # subvolumes of btrfs
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), self._root)


def _made(path: str) -> bool:
    """False: there is something already."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    return True


def _take_over(fd: int, own: os.stat_result, root: os.stat_result) -> None:
    owner = root.st_uid if os.geteuid() == _ROOT_USER else own.st_uid
    if (own.st_uid, own.st_gid) != (owner, root.st_gid):
        os.fchown(fd, owner, root.st_gid)
    if modes.S_IMODE(own.st_mode) != modes.S_IMODE(root.st_mode):
        os.fchmod(fd, modes.S_IMODE(root.st_mode))


def _take_over_attribute(fd: int, root: str, name: str) -> None:
    wanted, own = _attribute(root, name), _attribute(fd, name)
    if wanted == own:
        return
    if wanted is None:
        os.removexattr(fd, name)
    else:
        os.setxattr(fd, name, wanted)


def _attribute(file: int | str, name: str) -> bytes | None:
    try:
        return os.getxattr(file, name)
    except OSError:
        return None  # it has none, or its file system knows none
