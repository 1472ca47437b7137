"""Names: what a directory entry's bytes mean in a storage (the contract's chapter "Names"). Pure functions."""

from __future__ import annotations

import enum
import re
import uuid
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from hashlib import sha1
from typing import Final

from depotfs.errors import NameNotUnicode, NameTooLong
from depotfs.io.ids import IdForm, is_canonical
from depotfs.types import FileId

NAMESPACE: Final = uuid.UUID("6f1c1a52-3c0e-4b7a-9d57-0a54f1b8d2c3")
"""Namespace of the UUIDv5 that a plain name stands for. Part of what is stored: never to be changed."""
LONGEST: Final = 255
"""Bytes of a name (NAME_MAX of Linux's file systems)."""

_ID_IN_OTHER_SPELLING = re.compile(
    r"(urn:uuid:)?\{?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\}?"
    r"|urn:uuid:[0-9a-f]{32}|\{[0-9a-f]{32}\}|[0-9a-f]{24}",
    re.ASCII | re.IGNORECASE,
)


class Kind(enum.Enum):
    """What a name is."""

    ID = "id"
    PLAIN = "plain"
    SCRATCH = "scratch"
    OTHER_SPELLING = "other spelling"
    """It parses as an id but is not written as one is stored: it names nothing."""


@dataclass(frozen=True, slots=True)
class Name:
    """A name of a storage's directory.

    Attributes:
        text: the name itself.
        ids: the file ids it can lead to, the one that a new file gets first; empty for OTHER_SPELLING.
    """

    text: str
    kind: Kind
    ids: tuple[FileId, ...]


@dataclass(frozen=True, slots=True, eq=False)
class NameRules:
    """What names mean in one storage.

    Attributes:
        form: the form of id that its backend generates.
        scratch: shell patterns of scratch names.
        free_ids: its ids can be any text (a third-party class), so that a name may be an id as it is.
    """

    form: IdForm
    scratch: tuple[str, ...]
    free_ids: bool = False

    @lru_cache(maxsize=4096)  # noqa: B019 - there are as many rules as storages, for as long as the process lives
    def parse(self, name: bytes) -> Name:
        """What `name` means. Raises NameTooLong, NameNotUnicode."""
        text = decode(name)
        if is_canonical(text):
            return Name(text, Kind.ID, (FileId(text),))
        if _ID_IN_OTHER_SPELLING.fullmatch(text):
            return Name(text, Kind.OTHER_SPELLING, (FileId(text),) if self.free_ids else ())
        kind = Kind.SCRATCH if _matcher(self.scratch).match(text) else Kind.PLAIN
        derived = derive(text, self.form)
        return Name(text, kind, (*derived, FileId(text)) if self.free_ids else derived)


def decode(name: bytes) -> str:
    """The name as text. Raises NameTooLong, NameNotUnicode."""
    if len(name) > LONGEST:
        raise NameTooLong(f"The name {name[:20]!r}… has {len(name)} bytes, {LONGEST} are allowed")
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise NameNotUnicode(f"The name {name!r} is not UTF-8: {error.reason}") from None


@lru_cache(maxsize=64)
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Matches what any of the shell patterns matches; of none, nothing."""
    return re.compile("|".join(map(translate, patterns)) or "(?!)")


def derive(text: str, form: IdForm) -> tuple[FileId, FileId]:
    """The two ids that a plain name can be stored under, the backend's own form first."""
    # What uuid.uuid5 does (RFC 9562, 5.5), at a third of its cost: copying many files derives an id for each.
    digest = bytearray(sha1(NAMESPACE.bytes + text.encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    whole = digest.hex()
    ids = (
        FileId(f"{whole[:8]}-{whole[8:12]}-{whole[12:16]}-{whole[16:20]}-{whole[20:]}"),
        FileId(whole[:24]),
    )
    return ids if form is IdForm.UUID else (ids[1], ids[0])
