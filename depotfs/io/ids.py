"""File ids: the two canonical forms that every backend of ours accepts, and how new ones are made.

A UUID is lower-case with hyphens; a Mongo ObjectId is 24 lower-case hex digits.
"""

from __future__ import annotations

import enum
import re
import uuid
from typing import Any

from depotfs.errors import InvalidFileId
from depotfs.types import FileId

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_OBJECT_ID = re.compile(r"[0-9a-f]{24}", re.ASCII)


class IdForm(enum.Enum):
    """The form of id that a backend generates."""

    UUID = "uuid"
    OBJECT_ID = "objectid"


def is_canonical(text: str) -> bool:
    """Whether `text` is an id exactly as it is stored."""
    return bool(_UUID.fullmatch(text) or _OBJECT_ID.fullmatch(text))


def form_of(file_id: str) -> IdForm:
    """The form of a canonical id."""
    return IdForm.OBJECT_ID if len(file_id) == 24 else IdForm.UUID


def canonical(value: Any) -> FileId:
    """The canonical id that `value` means: a str in any spelling of a UUID, a UUID, a bson ObjectId, a stored file.

    Raises:
        InvalidFileId: (a ValueError) for everything else, None included.
    """
    value = getattr(value, "file_id", value)
    if isinstance(value, uuid.UUID):
        return FileId(str(value))
    if not isinstance(value, str):
        value = str(value) if type(value).__name__ == "ObjectId" else ""
    if is_canonical(value):
        return FileId(value)
    folded = value.lower()
    if folded.isascii() and _OBJECT_ID.fullmatch(folded):
        return FileId(folded)
    try:
        return FileId(str(uuid.UUID("{%s}" % value)))
    except ValueError:
        raise InvalidFileId(f"Invalid file id {value!r}") from None


def new_uuid() -> FileId:
    """A random UUID, version 4: it tells neither the time nor the machine, and cannot be guessed."""
    return FileId(str(uuid.uuid4()))
