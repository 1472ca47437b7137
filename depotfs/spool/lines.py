"""Lines of the journal, as they are written and read.

A line is one JSON object: `crc` (CRC-32 of the line as it is without it), `v` (the format's version),
`n` (number of the file), `event`, `state`, `path` and, but for `done`, all that there is to know of the file.
So the last line of a number counts, lines of different files do not depend on each other, and a
journal is compacted by keeping the last line of each file that is not done. A reader passes over members that it
does not know: `sum` and `since` came later.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any, Final

from depotfs.errors import SpoolUnreadable
from depotfs.spool.recovery import Record
from depotfs.spool.state import State
from depotfs.spool.target import Target
from depotfs.types import FileId

VERSION: Final = 1
_PREFIX: Final = '{"crc":"'
_HEAD: Final = len(_PREFIX) + 8 + len('",')
_quoted: Final = json.encoder.encode_basestring_ascii


def line_of(fields: str) -> bytes:
    """The line of an object with these members, as JSON."""
    body = b"{%b}" % fields.encode("ascii")
    return b'{"crc":"%08x",%b\n' % (zlib.crc32(body), body[1:])


def encode_begin(boot: str, highest: int) -> bytes:
    """The first line of a journal that was begun in that boot, when numbers up to that one had been given."""
    return line_of(f'"v":{VERSION},"event":"begin","boot":{_quoted(boot)},"highest":{highest}')


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
            f'"since":{record.since:.3f},'
            f'"expect":{_or_null(target.expect)},"commit":{_quoted(target.commit)}'
        )
    return line_of(fields)


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
        since=fields.get("since", 0.0),
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
