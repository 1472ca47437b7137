"""A content is compared with its checksum in whatever order and pieces it arrives."""

from __future__ import annotations

import itertools
import zlib

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depotfs.io.checksums import ALGORITHMS, Checksums
from depotfs.remote.checking import _POLYNOMIALS, ContentCheck, OtherContent, combined
from depotfs.types import FileId, FileMetadata, FileStat


def stat_of(content: bytes, algorithm: str) -> FileStat:
    running = Checksums([algorithm])
    running.add(content)
    metadata = FileMetadata("a", "text/plain", 0)
    return FileStat(FileId("x"), len(content), "v", "r", metadata, 0, "", running.values()[algorithm])


@given(st.binary(), st.binary())
def test_checksums_of_neighbours_are_combined(first: bytes, second: bytes) -> None:
    found = combined(_POLYNOMIALS["crc32"], zlib.crc32(first), zlib.crc32(second), len(second))
    assert found == zlib.crc32(first + second)
    value = combined(_POLYNOMIALS["crc32c"], google_crc32c.value(first), google_crc32c.value(second), len(second))
    assert value == google_crc32c.value(first + second)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@given(st.binary(min_size=1, max_size=300), st.lists(st.integers(0, 300)), st.randoms(), st.booleans())
def test_any_order(algorithm: str, content: bytes, cuts: list[int], random: object, damaged: bool) -> None:
    bounds = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    pieces = [(begin, content[begin:end]) for begin, end in itertools.pairwise(bounds)]
    random.shuffle(pieces)  # type: ignore[attr-defined]
    check = ContentCheck.of(stat_of(content if not damaged else content[:-1] + b"\0\1", algorithm), "s")
    assert check is not None
    if damaged:
        pieces = [(begin, data) for begin, data in pieces] + [(len(content), b"\0")]
        if content[-1:] + b"\0" == b"\0\1":
            return
        with pytest.raises(OtherContent):
            _add(check, pieces)
        with pytest.raises(OtherContent):
            check.add(0, b"")
    else:
        _add(check, pieces)


def _add(check: ContentCheck, pieces: list[tuple[int, bytes]]) -> None:
    for offset, data in pieces:
        check.add(offset, memoryview(data))


def test_what_has_no_checksum_is_not_checked() -> None:
    stat = stat_of(b"x", "md5")
    assert ContentCheck.of(FileStat(stat.file_id, 1, "v", "r", stat.metadata, 0), "s") is None
