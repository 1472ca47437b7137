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

    def update(self, data: bytes) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


class _Crc32c(_Crc32):
    def update(self, data: bytes) -> None:
        self._value = google_crc32c.extend(self._value, data)


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

    def add(self, data: bytes) -> None:
        for running in self._hashes.values():
            running.update(data)

    def values(self) -> dict[str, str]:
        """The checksum of what has arrived, by the name of the algorithm."""
        return {name: f"{name}:{running.hexdigest()}" for name, running in self._hashes.items()}


def check(stat: FileStat, data: bytes, where: str) -> None:
    """Raises ContentDamaged if that is not the whole content, by the checksum that is stored; not where none is."""
    name = algorithm(stat)
    if name in ALGORITHMS:
        running = Checksums([name])
        running.add(data)
        if running.values()[name] != stat.checksum:
            raise ContentDamaged(f"File {stat.file_id} in {where} has another {name} than stored")


def algorithm(stat: FileStat) -> str:
    """By which the storage keeps the file's checksum, "" where it keeps none."""
    return stat.checksum.partition(":")[0]
