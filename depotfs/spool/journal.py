"""The journal: one append-only file of what was promised about every spool file.

A line is one JSON object: `crc` (CRC-32 of the line as it is without it), `v` (the format's version),
`n` (number of the file), `event`, `state`, `path` and, but for `done`, all that there is to know of the file.
So the last line of a number counts, lines of different files do not depend on each other, and a
journal is compacted by keeping the last line of each file that is not done.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from depotfs import disk
from depotfs.errors import SpoolFull, SpoolUnreadable
from depotfs.spool.recovery import Record
from depotfs.spool.state import State
from depotfs.spool.target import Target
from depotfs.types import FileId

VERSION: Final = 1
_PREFIX: Final = '{"crc":"'
_HEAD: Final = len(_PREFIX) + 8 + len('",')
_quoted: Final = json.encoder.encode_basestring_ascii
_logger = logging.getLogger(__name__)


def _line(fields: str) -> bytes:
    """The line of an object with these members."""
    body = b"{%b}" % fields.encode("ascii")
    return b'{"crc":"%08x",%b\n' % (zlib.crc32(body), body[1:])


def _or_null(text: str | None) -> str:
    return "null" if text is None else _quoted(text)


def encode(record: Record) -> bytes:
    """The record's line, with its line feed."""
    # Put together by hand: three lines are written for every file that is copied, and this is a third of json's time.
    fields = (
        f'"v":{VERSION},"n":{record.number},"event":{_quoted(record.event)},"state":{_quoted(record.state.value)},'
        f'"path":{_quoted(record.path)}'
    )
    target = record.target
    if target is not None:
        fields += (
            f',"size":{record.size},"durable":{"true" if record.durable else "false"},"disk":{record.disk},'
            f'"reason":{_quoted(record.reason)},"storage":{_quoted(target.storage)},'
            f'"identity":{_quoted(target.identity)},"id":{_quoted(target.file_id)},"name":{_or_null(target.name)},'
            f'"filename":{_quoted(target.filename)},"type":{_quoted(target.content_type)},'
            f'"modified":{"null" if target.modified is None else target.modified},"sum":{_quoted(record.checksum)},'
            f'"expect":{_or_null(target.expect)},"commit":{_quoted(target.commit)}'
        )
    return _line(fields)


def _fields(line: bytes) -> dict[str, Any] | None:
    """What the line says, None if it is torn or damaged. Raises SpoolUnreadable for another version."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    crc = fields.pop("crc", None)
    if isinstance(crc, str) and crc != "%08x" % zlib.crc32(b"{" + line[_HEAD:]):
        return None
    if fields.get("v") != VERSION:
        raise SpoolUnreadable(
            f"the spool's journal has version {fields.get('v')!r}, this program knows {VERSION}; "
            "nothing was changed: start the version of depotfs that wrote it, or give another spool directory"
        )
    return fields if isinstance(crc, str) else None


def _record(fields: dict[str, Any]) -> Record:
    state = State(fields["state"])
    if state is State.DONE:
        return Record(fields["n"], fields["event"], state, fields["path"])
    target = Target(
        storage=fields["storage"],
        identity=fields["identity"],
        file_id=FileId(fields["id"]),
        name=fields["name"],
        filename=fields["filename"],
        content_type=fields["type"],
        modified=fields["modified"],
        expect=fields["expect"],
        commit=fields["commit"],
    )
    return Record(
        fields["n"],
        fields["event"],
        state,
        path=fields["path"],
        size=fields["size"],
        durable=fields["durable"],
        reason=fields["reason"],
        target=target,
        disk=fields["disk"],
        checksum=fields.get("sum", ""),
    )


@dataclass(frozen=True, slots=True)
class Replay:
    """What a journal says.

    Attributes:
        boot: the kernel's id of the boot that it was begun in, "" if unknown.
        highest: the highest number ever given, 0 if none.
        damaged: lines that could not be understood, but for a torn last one.
    """

    records: list[Record]
    boot: str = ""
    highest: int = 0
    damaged: int = 0


def read(content: bytes) -> Replay:
    """Everything that is whole in a journal; changes nothing.

    Raises:
        SpoolUnreadable: a line is of another version.
    """
    lines = content.split(b"\n")
    # What follows the last line feed is a write that was cut short: its effect never began.
    lines.pop()
    records: list[Record] = []
    boot, highest, damaged = "", 0, 0
    for line in lines:
        fields = _fields(line)
        if fields is None:
            damaged += 1
        elif fields["event"] == "begin":
            boot, highest = fields["boot"], fields["highest"]
        else:
            records.append(_record(fields))
    highest = max([highest, *(record.number for record in records)])
    return Replay(records, boot, highest, damaged)


class Journal:
    """Appends records; thread-safe, since a durable seal waits for the disk in a thread.

    Args:
        boot: the kernel's id of this boot.
        highest: the highest number that any file had so far.

    Attributes:
        size: bytes of the file.
        compact_at: bytes beyond twice what is alive; those of some 10,000 small files, so that its flush is rare.
    """

    compact_at = 4 << 20

    def __init__(self, path: str, boot: str, highest: int) -> None:
        self.path = path
        self.size = 0
        self._boot = boot
        self._highest = highest
        self._fd = -1
        self._lock = threading.Lock()
        self._alive: dict[int, bytes] = {}
        self._alive_size = 0

    def begin(self, records: Iterable[Record]) -> None:
        """The file holds these records alone, on the disk; the old one is replaced in one step.

        On a full disk the old one is gone on with: decided anew it says the same, and daemons must start to make room.

        Raises:
            SpoolFull: no room, and there is no old one.
            OSError: of the disk.
        """
        self._alive = {record.number: encode(record) for record in records}
        self._alive_size = sum(map(len, self._alive.values()))
        try:
            self._rewrite()
        except SpoolFull as error:
            if not os.path.exists(self.path):
                raise
            _logger.warning("%s", error)
            self._continue()

    def append(self, record: Record, *, durable: bool = False) -> None:
        """The record survives the death of the daemon; if `durable`, of the machine.

        Raises:
            SpoolFull: no room for it; the journal is as before.
        """
        line = encode(record)
        with self._lock:
            self._write(line)
            self._alive_size += len(line) - len(self._alive.pop(record.number, b""))
            self._alive[record.number] = line
            self._highest = max(self._highest, record.number)
            if self.size > self.compact_at + 2 * self._alive_size:
                self._compact()
            copy = self._copy_to_flush() if durable else -1
        if copy >= 0:
            try:
                disk.sync_file(copy)
            finally:
                os.close(copy)

    def _copy_to_flush(self) -> int:
        """A descriptor to flush without the lock: the journal may be compacted, and flushed, while the disk is slow."""
        try:
            return os.dup(self._fd)
        except OSError:  # too many are open, and the record stands: it is flushed here
            disk.sync_file(self._fd)
            return -1

    def forget(self, number: int) -> None:
        """The file is done and nothing is left of its bytes: its record goes with the next compaction."""
        with self._lock:
            self._alive_size -= len(self._alive.pop(number, b""))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, line: bytes) -> None:
        try:
            _write_all(self._fd, line, self.path)
        except SpoolFull:
            # Half a line would swallow the next one. If the daemon dies before it is cut off, it is a torn last line.
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(line)

    def _compact(self) -> None:
        try:
            self._rewrite()
        except OSError as error:
            # The long journal says the same. It is tried again after as many bytes more.
            _logger.warning("the spool's journal %s could not be shortened: %s", self.path, error)

    def _rewrite(self) -> None:
        begin = _line(f'"v":{VERSION},"event":"begin","boot":{_quoted(self._boot)},"highest":{self._highest}')
        content = begin + b"".join(self._alive.values())
        fresh = Path(self.path + ".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, content, str(fresh))
            disk.sync_file(fd)
            # A crash before this line leaves the old journal, after it the new one; they say the same.
            fresh.rename(self.path)
        except BaseException:
            os.close(fd)
            fresh.unlink()
            raise
        disk.sync_directory(str(fresh.parent))
        self._use(fd, len(content))

    def _continue(self) -> None:
        """Records are appended to the old journal, behind its last whole line."""
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        size = Path(self.path).read_bytes().rfind(b"\n") + 1
        os.ftruncate(fd, size)
        self._use(fd, size)

    def _use(self, fd: int, size: int) -> None:
        self.close()
        self._fd, self.size = fd, size


def _write_all(fd: int, content: bytes, path: str) -> None:
    """Raises SpoolFull if not all of it fits: some of it may be there."""
    reason = "the disk is full"
    try:
        if os.write(fd, content) == len(content):
            return
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        reason = error.strerror or reason
    raise SpoolFull(f"no room for the spool's journal {path}: {reason}")
