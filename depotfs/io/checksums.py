"""Checksums of content, written as in `FileStat.checksum`: `algorithm:hex`."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import google_crc32c

from depotfs.errors import ContentDamaged
from depotfs.types import FileStat


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | memoryview) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


class _Crc32c(_Crc32):
    def update(self, data: bytes | memoryview) -> None:
        self._value = google_crc32c.extend(self._value, bytes(data))  # it takes no other buffer; bytes stay as they are


_HASHES: Final[dict[str, Callable[[], Any]]] = {
    "crc32": _Crc32,
    "crc32c": _Crc32c,
    **{name: partial(hashlib.new, name, usedforsecurity=False) for name in ("md5", "sha1", "sha256")},
}
ALGORITHMS: Final = frozenset(_HASHES)
"""Those that can be worked out here."""


class Checksums:
    """Of bytes that arrive in order, by several algorithms at once."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        self._hashes = {name: _HASHES[name]() for name in algorithms}

    def add(self, data: bytes | memoryview) -> None:
        for running in self._hashes.values():
            running.update(data)

    def values(self) -> dict[str, str]:
        """The checksum of what has arrived, by the name of the algorithm."""
        return {name: f"{name}:{running.hexdigest()}" for name, running in self._hashes.items()}


class WholeCheck:
    """Compares a content that is read from the first to the last byte with the checksum that is stored, if one is.

    Read in any other order, it is not compared.
    """

    def __init__(self, stat: FileStat, where: str) -> None:
        self._stat, self._where = stat, where
        self._begin()

    def _begin(self) -> None:
        self._running = Checksums(ALGORITHMS & {algorithm(self._stat)})
        self._position = 0

    def add(self, offset: int, data: bytes | memoryview) -> None:
        """To be called for what was read, all of it. Raises ContentDamaged at the end."""
        if offset == 0:
            self._begin()
        if offset != self._position:
            return
        self._running.add(data)
        self._position += len(data)
        if self._position == self._stat.size:
            for name, value in self._running.values().items():
                if value != self._stat.checksum.lower():
                    raise ContentDamaged(f"File {self._stat.file_id} in {self._where} has another {name} than stored")


def algorithm(stat: FileStat) -> str:
    """By which the storage keeps the file's checksum, "" where it keeps none."""
    return stat.checksum.partition(":")[0]
