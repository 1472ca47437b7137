"""pymongo's errors by their cause, in the classes of `depotfs.errors`."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import bson.errors
import dns.exception
import pymongo.errors

from depotfs.errors import (
    AccessDenied,
    ConfigurationError,
    ContentDamaged,
    DepotError,
    InvalidMetadata,
    QuotaExceeded,
    StorageFull,
    StorageMissing,
    StorageUnavailable,
    TooLarge,
)

DUPLICATE_KEY: Final = 11000

# Codes of mongod's src/mongo/base/error_codes.yml.
_BY_CODE: Final[Mapping[int, type[DepotError]]] = {
    11: AccessDenied,  # UserNotFound
    13: AccessDenied,  # Unauthorized
    18: AccessDenied,  # AuthenticationFailed
    334: AccessDenied,  # MechanismUnavailable
    391: AccessDenied,  # ReauthenticationRequired
    8000: AccessDenied,  # AtlasError
    26: StorageMissing,  # NamespaceNotFound
    73: ConfigurationError,  # InvalidNamespace
    14031: StorageFull,  # OutOfDiskSpace
    12501: QuotaExceeded,
    17280: TooLarge,  # KeyTooLong
    10334: TooLarge,  # BSONObjectTooLarge
    14: InvalidMetadata,  # TypeMismatch: a foreign document whose field `depotfs` is not as ours
    28: InvalidMetadata,  # PathNotViable: or is no document at all
    # IllegalOperation: a standalone server got the number of a transaction, since a reset in the midst of a handshake
    # had left the client unsure what it speaks to (seen). It did nothing, and soon the client knows.
    20: StorageUnavailable,
    6: StorageUnavailable,  # HostUnreachable
    7: StorageUnavailable,  # HostNotFound
    24: StorageUnavailable,  # LockTimeout
    43: StorageUnavailable,  # CursorNotFound
    46: StorageUnavailable,  # LockBusy
    50: StorageUnavailable,  # MaxTimeMSExpired
    64: StorageUnavailable,  # WriteConcernFailed
    89: StorageUnavailable,  # NetworkTimeout
    91: StorageUnavailable,  # ShutdownInProgress
    112: StorageUnavailable,  # WriteConflict
    133: StorageUnavailable,  # FailedToSatisfyReadPreference
    175: StorageUnavailable,  # QueryPlanKilled
    189: StorageUnavailable,  # PrimarySteppedDown
    225: StorageUnavailable,  # TransactionTooOld
    237: StorageUnavailable,  # CursorKilled
    251: StorageUnavailable,  # NoSuchTransaction
    202: StorageUnavailable,  # NetworkInterfaceExceededTimeLimit
    262: StorageUnavailable,  # ExceededTimeLimit
    9001: StorageUnavailable,  # SocketException
    10058: StorageUnavailable,  # NotPrimary, of old servers
    10107: StorageUnavailable,  # NotWritablePrimary
    11600: StorageUnavailable,  # InterruptedAtShutdown
    11601: StorageUnavailable,  # Interrupted
    11602: StorageUnavailable,  # InterruptedDueToReplStateChange
    13435: StorageUnavailable,  # NotPrimaryNoSecondaryOk
    13436: StorageUnavailable,  # NotPrimaryOrSecondary
}
CURSOR_ENDED: Final = frozenset({43, 50, 237})
"""Codes by which a cursor ends before its end: forgotten after 10 minutes of rest, out of time, killed."""
_MESSAGE_LIMIT: Final = 300
"""Characters kept of a server's message: pymongo's end with a description of the whole topology."""


_BROKEN: Final = (
    pymongo.errors.ConnectionFailure,
    pymongo.errors.ProtocolError,
    pymongo.errors.WTimeoutError,
)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Whatever pymongo raises inside is raised as an error of ours that begins with `what`."""
    try:
        yield
    except (pymongo.errors.PyMongoError, bson.errors.BSONError) as error:
        told = " ".join(str(error)[:_MESSAGE_LIMIT].split())
        raise cause_of(error)(f"{what}: {told}") from error
    except Exception as error:
        if isinstance(error, DepotError) or not _is_drivers(error):
            raise
        raise StorageUnavailable(f"{what}: the server's reply makes no sense ({type(error).__name__})") from error


def _is_drivers(error: Exception) -> bool:
    """Whether pymongo itself stumbled, as it does over a reply that lacks what each reply has."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] in ("pymongo", "bson")


def cause_of(error: Exception) -> type[DepotError]:
    """The class of ours that says why `error` (of pymongo or bson) was raised."""
    if isinstance(error, pymongo.errors.DocumentTooLarge):
        return TooLarge
    if isinstance(error, bson.errors.InvalidBSON):
        return ContentDamaged  # what a server sends is valid
    if isinstance(error, bson.errors.BSONError):
        return InvalidMetadata
    if isinstance(error, pymongo.errors.ConfigurationError):
        # A name server that gives no answer is told in the same way.
        return StorageUnavailable if isinstance(error.__cause__, dns.exception.DNSException) else ConfigurationError
    if isinstance(error, _BROKEN):
        return StorageUnavailable
    code = code_of(error)
    if code == 8000 and "quota" in str(error).lower():
        return QuotaExceeded
    if code in _BY_CODE:
        return _BY_CODE[code]
    if isinstance(error, pymongo.errors.WriteConcernError) or _may_be_retried(error):
        return StorageUnavailable
    return DepotError


def code_of(error: Exception) -> int:
    """The server's code, of a bulk write that of its first failed write; 0 where there is none."""
    if isinstance(error, pymongo.errors.BulkWriteError):
        failed: list[Any] = error.details.get("writeErrors") or error.details.get("writeConcernErrors") or []
        return int(failed[0].get("code") or 0) if failed else 0
    return int(getattr(error, "code", None) or 0)


def is_duplicate(error: pymongo.errors.OperationFailure) -> bool:
    """Whether a unique index refused the write."""
    return code_of(error) == DUPLICATE_KEY


def leaves_doubt(error: Exception) -> bool:
    """Whether the write that raised this may have been done all the same, or may yet be undone."""
    if isinstance(error, pymongo.errors.ServerSelectionTimeoutError):
        return False  # it was never sent
    doubtful = pymongo.errors.ConnectionFailure | pymongo.errors.WriteConcernError
    return isinstance(error, doubtful) or cause_of(error) is StorageUnavailable


def _may_be_retried(error: Exception) -> bool:
    if not isinstance(error, pymongo.errors.PyMongoError):
        return False
    return error.has_error_label("RetryableWriteError") or error.has_error_label("TransientTransactionError")
