"""Every exception class of the project, by cause.

Each also inherits the builtin that filedepot raises in its place, so that `except IOError` and
`except ValueError` written for filedepot go on working. Errnos are not made here but where the
kernel is answered (`depotfs.fuse.errnos`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from depotfs.types import FileStat


class DepotError(Exception):
    """Anything that went wrong by a cause that this project knows.

    Attributes:
        transient: whether the same call may succeed when it is simply made again, at once.
        curable: whether time, new credentials or a person at the server can make it succeed: what waits to be stored
            is tried again later, too. Not so for what lost a race or can never be stored.
        retry_after: seconds that the server asked to wait before that, where it said so.
    """

    transient: bool = False
    curable: bool = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def mark_reported(error: Exception) -> None:
    """The log has told of it, with all that is known: whoever answers the caller need not."""
    error.__dict__["reported"] = True


def is_reported(error: Exception) -> bool:
    """Whether `mark_reported` was called for it."""
    return "reported" in error.__dict__


class FileNotStored(DepotError, FileNotFoundError):
    """The storage holds no file of that id."""


class UnknownDepot(DepotError, AttributeError):
    """No storage was configured under that name or alias."""


class InvalidFileId(DepotError, ValueError):
    """What was given cannot be the id of a stored file."""

    curable = False


class InvalidMetadata(DepotError, ValueError):
    """A stored file's metadata cannot be understood, or a value cannot be stored as metadata."""

    curable = False


class AlreadyStored(DepotError, FileExistsError):
    """The file was to be made only if absent, and it is there."""

    curable = False


class VersionChanged(DepotError, OSError):
    """The content that the call was conditional on is gone: replaced or deleted by somebody else."""

    curable = False


class SourceLeft(DepotError, OSError):
    """The target of a move has the content, and so has the source still: it could not be removed, or that is unknown.

    Attributes:
        stat: what is stored under the target's id.
    """

    def __init__(self, message: str, stat: FileStat) -> None:
        super().__init__(message)
        self.stat = stat


class AccessDenied(DepotError, PermissionError):
    """The credentials are wrong or do not allow this."""


class ReadOnly(DepotError, PermissionError):
    """The storage, or the file system beneath it, takes no writes."""


class StorageMissing(DepotError, OSError):
    """The bucket, database or directory that the configuration names does not exist."""


class StorageUnavailable(DepotError, ConnectionError):
    """The server is unreachable, failing or asks for fewer requests."""

    transient = True


class StorageFailed(DepotError):
    """The storage's class raised what no storage should; the log has the traceback."""

    transient = True


class StorageFull(DepotError, OSError):
    """The storage's disk is full."""

    transient = True


class SpoolFull(StorageFull):
    """The spool may hold no more: its limit is reached or its disk is full."""


class SpoolBusy(DepotError, OSError):
    """Another daemon owns the spool."""


class SpoolUnreadable(DepotError, OSError):
    """The spool's journal was written by a newer program; nothing of it was touched."""


class QuotaExceeded(DepotError, OSError):
    """The account's or user's share of the storage is used up."""

    transient = True


class TooLarge(DepotError, OSError):
    """The content is larger than the storage can hold."""

    curable = False


class ContentDamaged(DepotError, OSError):
    """The bytes that arrived are not those that were stored: cut short or with another checksum."""

    transient = True


class SpoolDamaged(ContentDamaged):
    """Bytes in the spool are not those that were promised: kept for a person, never stored."""

    transient = False
    curable = False


class Unsupported(DepotError, OSError):
    """The storage cannot do this at all."""

    curable = False


class ConfigurationError(DepotError, ValueError):
    """A configuration or an option is wrong; the message names where and why."""


class Stale(DepotError):
    """The node that was asked about is not what its name leads to any more; looking the name up again helps."""


class NotPermitted(DepotError):
    """The mounted tree does not have this operation (directories, links, files in the root)."""


class InvalidName(DepotError):
    """No file may be made under this name, or these arguments make no sense together."""


class NameTooLong(DepotError):
    """The name has more than 255 bytes."""


class NameNotUnicode(DepotError):
    """The name is not UTF-8, so that no filename can be stored for it."""


class OtherStorage(DepotError):
    """A rename across storages."""


class BadHandle(DepotError):
    """The handle is not open, or not for this."""
