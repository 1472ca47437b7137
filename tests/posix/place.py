"""A directory under test, and what may differ between a flat mounted one and a plain one."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

NAMESPACE: Final = uuid.UUID("6f1c1a52-3c0e-4b7a-9d57-0a54f1b8d2c3")
"""Of the ids that are derived from names."""


def derived_uuid(name: str) -> str:
    """The id under which a plain name is stored by the backends that use UUIDs."""
    return str(uuid.uuid5(NAMESPACE, name))


def derived_object_id(name: str) -> str:
    """The id under which a plain name is stored by GridFS."""
    return uuid.uuid5(NAMESPACE, name).hex[:24]


def same(name: str) -> str:
    """What a plain directory lists for a name: itself."""
    return name


@dataclass
class Place:
    """A directory and what it can do.

    Attributes:
        listed_as: the entry that a listing shows for a file made under a name.
        flat: it refuses directories, links and special files with EPERM.
        utf8_only: names that are not UTF-8 are EILSEQ.
        remote: every file costs requests to a server: fewer files are used where the number is not the point.
    """

    directory: Path
    listed_as: Callable[[str], str] = same
    flat: bool = False
    utf8_only: bool = False
    remote: bool = False
    _used: set[str] = field(default_factory=set)

    def __truediv__(self, name: str) -> Path:
        """A path in it, removed by `clean`."""
        self._used.add(name)
        return self.directory / name

    def clean(self) -> None:
        """Every file that was asked for is gone."""
        for name in self._used:
            try:
                os.unlink(self.directory / name)
            except (FileNotFoundError, IsADirectoryError):
                continue
            except OSError as error:
                if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
                    raise
        self._used.clear()


@contextmanager
def refused(*codes: int) -> Iterator[None]:
    """The block ends with an OSError of one of these errnos."""
    wanted = "/".join(errno.errorcode[code] for code in codes)
    got: OSError | None = None
    try:
        yield
    except OSError as error:
        got = error
    assert got is not None, f"no error instead of {wanted}"
    assert got.errno in codes, f"{got!r} instead of {wanted}"


@contextmanager
def opened(path: Path | str | bytes, flags: int, mode: int = 0o666) -> Iterator[int]:
    """A descriptor, closed at the end; the error of close(2) counts."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)


def pattern(size: int, seed: int = 0) -> bytes:
    """`size` bytes that differ at every offset scale and between seeds, so that misplaced pieces show."""
    import random

    return random.Random(f"{size}-{seed}").randbytes(size)


def read_all(fd: int, size: int, step: int = 1 << 16) -> bytes:
    """The first `size` bytes by pread(2) in steps."""
    pieces = []
    offset = 0
    while offset < size and (piece := os.pread(fd, min(step, size - offset), offset)):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)
