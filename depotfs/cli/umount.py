"""`depotfs umount`: ends a mount once everything is stored."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys

from depotfs.cli.arguments import Subparsers, typed
from depotfs.daemon import mountpoint, runtime
from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.runtime import MountRecord
from depotfs.daemon.values import parse_duration


def add_parser(commands: Subparsers) -> None:
    """`umount` is a command."""
    text = "store what is not stored yet, unmount, and return when the daemon has ended"
    parser = commands.add_parser("umount", help=text, description=text)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    text = "wait at most that long, 300 by default; the daemon goes on storing then"
    parser.add_argument("--timeout", metavar="SECONDS", type=typed(parse_duration), default=300.0, help=text)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Returns when the mount is gone and its daemon has ended, with what became of its bytes. CommandFailed."""
    where = mountpoint.resolve(arguments.mountpoint)
    record = runtime.find_record(where)
    if record is not None and record.is_alive():
        _end(record, arguments.timeout)
    elif mountpoint.find_type(where) != mountpoint.FILESYSTEM:
        raise CommandFailed(Exit.NOT_MOUNTED, f"No depotfs is mounted at {where}")
    if mountpoint.find_type(where) == mountpoint.FILESYSTEM:
        mountpoint.detach(where)  # of a daemon that died, or that is not on record
    return _tell_outcome(where, runtime.find_record(where))


def _end(record: MountRecord, timeout: float) -> None:
    """The daemon was asked to end and has ended."""
    try:
        process = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if record.is_alive():  # looked at again: now the descriptor keeps its number from being given away
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGTERM)
        poll = select.poll()
        poll.register(process, select.POLLIN)
        if not poll.poll(timeout * 1000):
            sentence = f"The daemon of {record.mountpoint} still stores files after {timeout:g} s; it goes on with that"
            raise CommandFailed(Exit.TIMED_OUT, sentence)
    except PermissionError:
        sentence = f"The daemon of {record.mountpoint} is not yours to end (process {record.pid})"
        raise CommandFailed(Exit.NO_PERMISSION, sentence) from None
    finally:
        os.close(process)


def _tell_outcome(where: str, record: MountRecord | None) -> int:
    """Of a daemon that ended cleanly there is no record."""
    if record is None:
        return Exit.OK
    if record.outcome is None:
        sentence = f"The daemon of {where} died; the next mount there stores what its spool has"
        raise CommandFailed(Exit.BYTES_KEPT, sentence)
    for line in record.kept:
        print(f"depotfs: kept in the spool: {line}", file=sys.stderr)
    if record.outcome == Exit.BYTES_KEPT:
        count = len(record.kept) or "some"
        sentence = f"{where} is unmounted, but {count} files could not be stored; the next mount there tries again"
        raise CommandFailed(Exit.BYTES_KEPT, sentence)
    return record.outcome
