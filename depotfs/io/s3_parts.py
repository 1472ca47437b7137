"""Large objects in parts: cutting a content, sending and copying parts in parallel, leaving none behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Final

from depotfs.errors import ContentDamaged, DepotError, TooLarge
from depotfs.io.content import Content
from depotfs.io.s3_requests import Fields, Head, S3Requests, Stored

LARGEST_OBJECT: Final = 5 << 40
"""Bytes (S3 user guide, Multipart upload limits)."""
_MOST_PARTS: Final = 10_000
_MIB: Final = 1 << 20
_SINGLE: Final = 16 * _MIB
"""Content up to here is one request, and its ETag the MD5; beyond, the round trips of an upload in parts are small."""
_PART: Final = 8 * _MIB
_PARALLEL: Final = 8
_IN_FLIGHT: Final = _PARALLEL * _PART
"""Bytes of parts held in memory, besides the one being read; a single part may be larger."""
_CHECKSUM: Final[Fields] = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
"""The server makes the whole object's checksum of those of its parts."""
_COPY_PART: Final = 512 * _MIB


def part_size(size: int | None, number: int) -> int:
    """Bytes of part `number` (from 0 on). Of a known size all parts but the last are equal, as some servers want it.

    An unknown one begins with small parts that grow, so that 10,000 of them hold the largest object.
    """
    if size is None:
        return int(_PART * 1.9 ** (number // 1000))
    if size <= _SINGLE:
        return _SINGLE
    return max(_PART, -(-size // (_MOST_PARTS * _MIB)) * _MIB)


def pieces_of(content: Content, where: str) -> Iterator[bytes]:
    """The content in pieces that can be parts, none of them empty.

    Raises:
        TooLarge: before anything is read if the size is known.
        ContentDamaged: the content has another size than it told.
    """
    size, total = content.size, 0
    if size is not None and size > LARGEST_OBJECT:
        raise TooLarge(f"{size} bytes are more than {where} can hold in one file ({LARGEST_OBJECT})")
    for number in range(_MOST_PARTS + 1):
        piece = content.read(part_size(size, number))
        total += len(piece)
        if total > LARGEST_OBJECT or (piece and number == _MOST_PARTS):
            raise TooLarge(f"The content is larger than {where} can hold in one file ({LARGEST_OBJECT} bytes)")
        if size is not None and (total > size or (not piece and total < size)):
            raise ContentDamaged(f"The content for {where} should have {size} bytes, and has {total} or more")
        if not piece:
            return
        yield piece


@contextmanager
def send_parts(
    requests: S3Requests, key: str, fields: Fields, pieces: Iterable[bytes]
) -> Iterator[Callable[[Fields], Stored]]:
    """Inside, all pieces are uploaded, and what is given makes them the object, on a condition.

    If anything fails, here or inside, the upload is aborted: no part of it stays.
    """
    upload = requests.start_parts(key, {**fields, **_CHECKSUM})
    try:
        parts = _send(requests, key, upload, pieces)
        yield lambda condition: requests.finish_parts(key, upload, parts, condition)
    except BaseException:
        with suppress(DepotError):
            requests.abort_parts(key, upload)
        raise


def _send(requests: S3Requests, key: str, upload: str, pieces: Iterable[bytes]) -> list[Fields]:
    done: list[Fields] = []
    running: deque[tuple[int, Future[Fields]]] = deque()
    pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="s3-part")
    try:
        for number, piece in enumerate(pieces, 1):
            while running and sum(size for size, _ in running) + len(piece) > _IN_FLIGHT:
                done.append(running.popleft()[1].result())
            running.append((len(piece), pool.submit(requests.put_part, key, upload, number, piece)))
        done.extend(future.result() for _, future in running)
        return done
    finally:
        pool.shutdown(cancel_futures=True)  # a part that arrived after the abort would stay


def copy_parts(requests: S3Requests, source: str, head: Head, key: str, fields: Fields, condition: Fields) -> Stored:
    """As `S3Requests.copy`, for any size."""
    fields = {**fields, **requests.tags(source)}
    step = max(_COPY_PART, part_size(head.size, 0))
    upload = requests.start_parts(key, fields)

    def copied(number: int) -> Fields:
        offset = (number - 1) * step
        return requests.copy_part(key, upload, number, source, head.etag, offset, min(step, head.size - offset))

    try:
        pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="s3-copy")
        try:
            parts = list(pool.map(copied, range(1, -(-head.size // step) + 1)))
        finally:
            pool.shutdown(cancel_futures=True)
        return requests.finish_parts(key, upload, parts, condition)
    except BaseException:
        with suppress(DepotError):
            requests.abort_parts(key, upload)
        raise
