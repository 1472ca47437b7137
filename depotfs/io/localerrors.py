"""What errors of the local file system mean to the callers of a storage."""

from __future__ import annotations

import errno
from typing import Final

from depotfs.errors import (
    AccessDenied,
    DepotError,
    QuotaExceeded,
    ReadOnly,
    StorageFull,
    StorageMissing,
    StorageUnavailable,
    TooLarge,
)
from depotfs.io.localcontent import SourceWatch

_CAUSES: Final[dict[int | None, type[DepotError]]] = {
    errno.ENOSPC: StorageFull,
    errno.EDQUOT: QuotaExceeded,
    errno.EROFS: ReadOnly,
    errno.EACCES: AccessDenied,
    errno.EPERM: AccessDenied,
    errno.EFBIG: TooLarge,
    errno.ENOTDIR: StorageMissing,
}
"""What an errno of the file system means to the caller; every other one: not available just now."""


class LocalErrors:
    """Inside, errors of the file system become ours; those of `source` stay as they are."""

    __slots__ = ("_path", "_source")

    def __init__(self, path: str, source: SourceWatch | None = None) -> None:
        self._path = path
        self._source = source

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError) or isinstance(error, DepotError):
            return
        if self._source is not None and error is self._source.failure:
            return
        cause = _CAUSES.get(error.errno, StorageUnavailable)
        raise cause(f"{self._path}: {error.strerror or error}") from error
