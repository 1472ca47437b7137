"""The one table from errors to errnos."""

from __future__ import annotations

import errno
from typing import Final

from depotfs import errors

_TABLE: Final[dict[type[BaseException], int]] = {
    errors.FileNotStored: errno.ENOENT,
    errors.InvalidFileId: errno.EINVAL,
    errors.InvalidMetadata: errno.EIO,
    errors.InvalidName: errno.EINVAL,
    errors.AlreadyStored: errno.EEXIST,
    errors.VersionChanged: errno.ESTALE,
    errors.Stale: errno.ESTALE,
    errors.AccessDenied: errno.EACCES,
    errors.ReadOnly: errno.EROFS,
    errors.StorageMissing: errno.EIO,
    errors.StorageUnavailable: errno.EIO,
    errors.StorageFailed: errno.EIO,
    errors.StorageFull: errno.ENOSPC,
    errors.SpoolFull: errno.ENOSPC,
    errors.QuotaExceeded: errno.EDQUOT,
    errors.TooLarge: errno.EFBIG,
    errors.ContentDamaged: errno.EIO,
    errors.Unsupported: errno.EOPNOTSUPP,
    errors.NotPermitted: errno.EPERM,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.NameNotUnicode: errno.EILSEQ,
    errors.OtherStorage: errno.EXDEV,
    errors.BadHandle: errno.EBADF,
}

EXPECTED: Final = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.ESTALE, errno.EPERM, errno.ENAMETOOLONG, errno.EILSEQ, errno.EXDEV,
     errno.EROFS, errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP, errno.EFBIG}
)  # fmt: skip
"""Answers that tell the caller all there is to know: not worth a line in the log."""


def find_errno(error: BaseException) -> int | None:
    """The errno that tells the caller what went wrong, None for an error that nobody expected.

    An OSError of the local disk keeps its own errno; so does what ran out of descriptors, whatever it was then called:
    the caller can wait until others have closed.
    """
    if (lack := _find_lack(error)) is not None:
        return lack
    for cause in type(error).__mro__:
        if cause in _TABLE:
            return _TABLE[cause]
    if isinstance(error, errors.DepotError):
        return errno.EIO
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return None


def _find_lack(error: BaseException) -> int | None:
    """EMFILE or ENFILE if that is what the error comes from."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            return cause.errno
        cause = cause.__cause__ or cause.__context__
    return None
