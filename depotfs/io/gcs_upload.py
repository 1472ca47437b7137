"""An upload to Google Cloud Storage: in one request where the content is small, else piece by piece, resumable."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import google_crc32c

from depotfs.errors import ContentDamaged, DepotError, StorageUnavailable, TooLarge
from depotfs.io.content import Content
from depotfs.io.gcs_answers import Answer
from depotfs.io.gcs_requests import GcsRequests
from depotfs.types import OCTET_STREAM

PIECE = 8 << 20
"""Bytes held in memory and sent at once; a multiple of 256 KiB, as the service demands."""
_SESSIONS = 3
"""How often an upload is begun, where the server forgets it again and again."""
MAX_SIZE = 5 << 40
"""Bytes: the largest object that the service takes."""


class Checksum:
    """A checksum of what is sent, which the server compares before the object appears.

    CRC32C where google-crc32c has its C code (measured: 6.4 GB/s), else MD5 (0.8 GB/s).
    """

    def __init__(self) -> None:
        self._fast = google_crc32c.implementation == "c"
        crc32c: Any = google_crc32c.Checksum
        self._hash = crc32c() if self._fast else hashlib.md5(usedforsecurity=False)

    def add(self, data: bytes) -> None:
        self._hash.update(data)

    def _encoded(self) -> str:
        return base64.b64encode(self._hash.digest()).decode()

    def resource(self) -> dict[str, str]:
        """As a field of an object resource."""
        return {"crc32c" if self._fast else "md5Hash": self._encoded()}

    def header(self) -> dict[str, str]:
        """As a header of the last piece."""
        return {"X-Goog-Hash": f"{'crc32c' if self._fast else 'md5'}={self._encoded()}"}

    def differs(self, stored: Mapping[str, Any]) -> bool:
        """Whether the stored object has another checksum; not where the server tells none."""
        return any(stored.get(key, value) != value for key, value in self.resource().items())


class Upload:
    """One content on its way to one object.

    Args:
        what: what is done, for messages.
        path: of the bucket's objects at the upload endpoint.
        resource: the object's metadata, `name` included; params: preconditions, fields, access.
    """

    def __init__(
        self,
        requests: GcsRequests,
        what: str,
        path: str,
        resource: Mapping[str, Any],
        params: Mapping[str, str],
        content: Content,
    ) -> None:
        self._requests = requests
        self._what = what
        self._path = path
        self._resource = resource
        self._params = params
        self._content = content
        kind = str(resource["contentType"])
        self._type = kind if kind.isascii() and kind.isprintable() else OCTET_STREAM  # the resource has it in full
        self.checksum = Checksum()

    def run(self) -> Answer:
        """The server's answer to the whole of it: the stored object's resource, or 4xx.

        Nothing is stored when it raises: whatever the source raises; TooLarge; DepotError if it has another length
        than it said; ContentDamaged if the server received other bytes; else as `GcsRequests.send`.
        """
        size = self._content.size
        if size is not None and size > MAX_SIZE:
            raise self._too_large(size)
        first = self._read()
        if len(first) < PIECE or len(first) == size:
            self._check_size(len(first))
            return self._damaged(self._at_once(first))
        return self._damaged(self._in_pieces(first))

    def _read(self) -> bytes:
        data = self._content.read(PIECE)
        self._requests.patience.progressed()  # the time that the source takes is none of the server's
        self.checksum.add(data)
        return data

    def _at_once(self, data: bytes) -> Answer:
        boundary = uuid.uuid4().hex
        resource = json.dumps({**self._resource, **self.checksum.resource()})
        head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{resource}\r\n"
            f"--{boundary}\r\nContent-Type: {self._type}\r\n\r\n"
        )
        return self._requests.send(
            self._what,
            "POST",
            self._path,
            params={**self._params, "uploadType": "multipart"},
            headers={"Content-Type": f'multipart/related; boundary="{boundary}"'},
            body=b"".join((head.encode(), data, f"\r\n--{boundary}--\r\n".encode())),
        )

    def _in_pieces(self, first: bytes) -> Answer:
        for _ in range(_SESSIONS):
            begun = self._begin()
            if not begun.ok:
                return begun
            session = _Session(self._requests, self._what, begun.headers.get("Location", ""))
            try:
                return self._send_all(session, first)
            except _SessionLost:
                if not self._content.restart():
                    break
                self.checksum = Checksum()
                first = self._read()
            except BaseException:
                session.cancel()
                raise
        raise StorageUnavailable(f"{self._what}: the server forgot the upload half-way")

    def _begin(self) -> Answer:
        params = {**self._params, "uploadType": "resumable", "name": str(self._resource["name"])}
        headers = {"X-Upload-Content-Type": self._type}
        return self._requests.send(
            self._what, "POST", self._path, params=params, headers=headers, body=dict(self._resource), empty=True
        )

    def _send_all(self, session: _Session, piece: bytes) -> Answer:
        size = self._content.size
        offset = 0
        while True:
            end = offset + len(piece)
            if end > MAX_SIZE:
                raise self._too_large(end)
            last = len(piece) < PIECE or end == size
            if last:
                self._check_size(end)
            answer = session.send(piece, offset, end if last else None, self.checksum.header() if last else {})
            if last or answer.status != 308:
                return answer
            offset = end
            piece = self._read()

    def _check_size(self, size: int) -> None:
        promised = self._content.size
        if promised is not None and promised != size:
            raise DepotError(f"{self._what}: the source gave {size} bytes instead of {promised}")

    def _too_large(self, size: int) -> TooLarge:
        return TooLarge(f"{self._what}: {size} bytes are more than the {MAX_SIZE} that an object can have")

    def _damaged(self, answer: Answer) -> Answer:
        if answer.status == 400 and re.search("md5|crc32c|hash|checksum", answer.message, re.IGNORECASE):
            raise ContentDamaged(f"{self._what}: other bytes arrived than were sent: {answer.message}")
        return answer


class _SessionLost(Exception):
    """The server knows nothing of this upload any more."""


class _Session:
    """A resumable upload that has begun; the URL alone allows writing, so it is in no message.

    See https://cloud.google.com/storage/docs/performing-resumable-uploads.
    """

    def __init__(self, requests: GcsRequests, what: str, location: str) -> None:
        self._requests = requests
        self._what = what
        self._url = requests.own(location)

    def send(self, piece: bytes, offset: int, total: int | None, headers: Mapping[str, str]) -> Answer:
        """The piece is with the server: 308, or the answer to the whole upload if `total` was told."""
        failures = 0
        done = 0  # bytes of this piece that the server has
        while True:
            try:
                answer = self._put(piece[done:], offset + done, total, headers)
            except StorageUnavailable as lost:
                failures += 1
                self._requests.pause(failures, lost)
                answer = self._put(b"", offset, total, {}, asking=True)
            if answer.status in (404, 410):
                raise _SessionLost
            if answer.status != 308:
                return answer
            before, done = done, _received(answer) - offset
            if not before <= done <= len(piece):
                raise _SessionLost
            if done == len(piece) and total is None:
                return answer
            failures = 0 if done > before else failures + 1
            if failures:
                self._requests.pause(failures, StorageUnavailable(f"{self._what}: the server takes no bytes"))

    def _put(
        self, data: bytes, start: int, total: int | None, headers: Mapping[str, str], *, asking: bool = False
    ) -> Answer:
        span = f"{start}-{start + len(data) - 1}" if data else "*"
        size = "*" if total is None else str(total)
        head = {**headers, "Content-Range": f"bytes {span}/{size}"}
        # A piece is sent once: what the server has of it is asked before it is sent again.
        return self._requests.send(
            self._what, "PUT", self._url, headers=head, body=data, attempts=None if asking else 1, bare=True
        )

    def cancel(self) -> None:
        """The server forgets what it has received, if it can be reached."""
        try:
            self._requests.send(self._what, "DELETE", self._url, attempts=1, bare=True)
        except DepotError:
            return  # the service itself forgets it after a week


def _received(answer: Answer) -> int:
    """Bytes that the server says it has."""
    found = re.fullmatch(r"bytes=0-(\d{1,18})", answer.headers.get("Range", ""))
    return int(found[1]) + 1 if found else 0


def upload_path(bucket: str) -> str:
    return f"/upload/storage/v1/b/{quote(bucket, safe='')}/o"
