"""The one table from errors to errnos: the contract's chapter "Errors", row by row."""

from __future__ import annotations

import errno
import inspect

import pytest

from depotfs import errors
from depotfs.fuse.errnos import find_errno


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.FileNotStored("x"), errno.ENOENT),
        (errors.AccessDenied("x"), errno.EACCES),
        (errors.ReadOnly("x"), errno.EROFS),
        (errors.StorageUnavailable("x"), errno.EIO),
        (errors.VersionChanged("x"), errno.ESTALE),
        (errors.AlreadyStored("x"), errno.EEXIST),
        (errors.SpoolFull("x"), errno.ENOSPC),
        (errors.StorageFull("x"), errno.ENOSPC),
        (errors.QuotaExceeded("x"), errno.EDQUOT),
        (errors.NameTooLong("x"), errno.ENAMETOOLONG),
        (errors.NameNotUnicode("x"), errno.EILSEQ),
        (errors.TooLarge("x"), errno.EFBIG),
        (errors.NotPermitted("x"), errno.EPERM),
        (errors.Unsupported("x"), errno.EOPNOTSUPP),
        (errors.OtherStorage("x"), errno.EXDEV),
        (errors.InvalidName("x"), errno.EINVAL),
        (errors.BadHandle("x"), errno.EBADF),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (KeyError("surprise"), None),
        (OSError("without a number"), None),
    ],
)
def test_errno(error: BaseException, code: int | None) -> None:
    assert find_errno(error) == code


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_without_descriptors_the_caller_is_told_so(code: int) -> None:
    lack, vendors, ours = OSError(code, "too many"), ValueError("of an SDK"), errors.StorageUnavailable("unreachable")
    vendors.__context__, ours.__cause__ = lack, vendors
    assert find_errno(ours) == code
    assert find_errno(lack) == code


def test_no_error_of_ours_is_a_surprise() -> None:
    for _, cause in inspect.getmembers(errors, inspect.isclass):
        if issubclass(cause, errors.DepotError):
            error = cause.__new__(cause)  # whatever its constructor takes
            assert find_errno(error) is not None
