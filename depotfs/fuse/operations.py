"""pyfuse3's handlers: each unpacks the request, makes one call of the façade and packs the answer."""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

from depotfs.errors import InvalidName, is_reported
from depotfs.fuse.errnos import EXPECTED, find_errno
from depotfs.types import HandleId
from depotfs.vfs.attr import Attr
from depotfs.vfs.filesystem import DepotFilesystem

_log = logging.getLogger(__name__)

DIRECT_WRITES: Final = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 6)
"""Whether the kernel drops what it has cached of a file where somebody writes past its cache (Linux 6.6)."""

P = ParamSpec("P")
R = TypeVar("R")


def _answer(
    handler: Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]]:
    """An error of the handler is the caller's errno: known ones by the table, others EIO with a traceback in the log.

    Anything else that left a handler would end the mount (pyfuse3 3.5).
    """

    @functools.wraps(handler)
    async def guarded(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self._under_way += 1
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            code = find_errno(error)
            if code is None:
                _log.exception("%s failed unexpectedly", handler.__name__)
                code = errno.EIO
            elif code not in EXPECTED and not is_reported(error):
                _log.info("%s: %s: %s", handler.__name__, errno.errorcode.get(code, code), error)
            raise FUSEError(code) from None
        finally:
            self._under_way -= 1

    return guarded


class Operations(pyfuse3.Operations):
    """One mounted tree."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, filesystem: DepotFilesystem) -> None:
        super().__init__()
        self._fs = filesystem
        self._under_way = 0

    def is_busy(self) -> bool:
        """Whether a request is being answered, or a worker thread is at work: other tasks have something to do."""
        return self._under_way > 0 or self._fs.is_waiting()

    @_answer
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        return _entry(await self._fs.lookup(parent_inode, name, ctx.pid))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for node_id, count in inode_list:
            try:
                self._fs.forget(node_id, count)
            except Exception:  # nobody waits for an answer, and none may end the mount
                _log.exception("forget of node %d failed", node_id)

    @_answer
    async def getattr(self, inode: int, ctx: object) -> EntryAttributes:
        return _entry(await self._fs.getattr(inode))

    @_answer
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None, ctx: object
    ) -> EntryAttributes:
        size = attr.st_size if fields.update_size else None
        mtime_ns = attr.st_mtime_ns if fields.update_mtime else None
        return _entry(await self._fs.setattr(inode, size=size, mtime_ns=mtime_ns, fh=fh))

    @_answer
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        return _opened(await self._fs.open(inode, flags, ctx.pid), flags)

    @_answer
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        fh, attr = await self._fs.create(parent_inode, name, flags, ctx.pid)
        return _opened(fh, flags), _entry(attr)

    @_answer
    async def read(self, fh: int, off: int, size: int) -> bytes:
        return cast(bytes, await self._fs.read(fh, off, size))  # any buffer will do

    @_answer
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._fs.write(fh, off, buf)

    @_answer
    async def flush(self, fh: int) -> None:
        await self._fs.flush(fh)

    @_answer
    async def release(self, fh: int) -> None:
        await self._fs.release(fh)

    @_answer
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._fs.fsync(fh)

    @_answer
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._fs.unlink(parent_inode, name, ctx.pid)

    @_answer
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise InvalidName("two names cannot be exchanged")
        replace = not flags & pyfuse3.RENAME_NOREPLACE
        await self._fs.rename(parent_inode_old, name_old, parent_inode_new, name_new, replace=replace, pid=ctx.pid)

    @_answer
    async def opendir(self, inode: int, ctx: object) -> int:
        return await self._fs.opendir(inode)

    @_answer
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        def take(name: bytes, attr: Attr, following: int) -> bool:
            return pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), _entry(attr), following)

        await self._fs.readdir(fh, start_id, take)

    @_answer
    async def releasedir(self, fh: int) -> None:
        await self._fs.releasedir(fh)

    @_answer
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._fs.fsyncdir(fh)

    @_answer
    async def statfs(self, ctx: object) -> pyfuse3.StatvfsData:
        found = await self._fs.statfs()
        answer = pyfuse3.StatvfsData()
        for field in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail"):
            setattr(answer, field, getattr(found, field))
        answer.f_namemax = 255
        return answer

    # A flat tree of plain files: what it does not have is refused by EPERM, as the contract says.

    @_answer
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: object) -> EntryAttributes:
        raise FUSEError(errno.EPERM)

    @_answer
    async def rmdir(self, parent_inode: int, name: bytes, ctx: object) -> None:
        raise FUSEError(errno.EPERM)

    @_answer
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: object) -> EntryAttributes:
        raise FUSEError(errno.EPERM)

    @_answer
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: object) -> EntryAttributes:
        raise FUSEError(errno.EPERM)

    @_answer
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: object) -> EntryAttributes:
        raise FUSEError(errno.EPERM)


def _opened(handle: HandleId, flags: int) -> FileInfo:
    """For a reply that opens a file.

    The page cache may stay: a node shows one life of a file, all of whose writes come by the kernel. Who only writes
    needs none; copying into it, too, would be half of what a write costs.
    """
    direct = DIRECT_WRITES and flags & os.O_ACCMODE == os.O_WRONLY
    return FileInfo(fh=pyfuse3.FileHandleT(handle), keep_cache=True, direct_io=direct)


def _entry(attr: Attr) -> EntryAttributes:
    """What the kernel is told of a node: its inode number is the node's id, pyfuse3 has one field for both."""
    entry = EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(attr.node_id)
    entry.st_mode = pyfuse3.ModeT(attr.mode)
    entry.st_nlink = attr.links
    entry.st_size = attr.size
    entry.st_blocks = (attr.size + 511) // 512
    entry.st_blksize = 128 << 10
    entry.st_uid = attr.uid
    entry.st_gid = attr.gid
    entry.st_atime_ns = entry.st_mtime_ns = attr.mtime_ns
    entry.st_ctime_ns = attr.ctime_ns
    entry.entry_timeout = attr.entry_timeout
    entry.attr_timeout = attr.attr_timeout
    return entry
