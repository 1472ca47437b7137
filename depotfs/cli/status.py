"""`depotfs status`: tells what a mount has not stored yet."""

from __future__ import annotations

import argparse
import json

from depotfs.cli.arguments import Subparsers
from depotfs.cli.umount import ask, find_mount
from depotfs.daemon import kept
from depotfs.daemon.control import DaemonUnreachable, Message
from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.kept import KeptFile

_SECONDS = 10.0
"""For an answer that needs no storage."""


def add_parser(commands: Subparsers) -> None:
    """Adds `status` to the commands."""
    text = "tell what is mounted and what is not stored yet, with age and reason"
    parser = commands.add_parser("status", help=text, description=text)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument("--json", action="store_true", help="as one JSON object, for programs")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints what the daemon tells. CommandFailed."""
    where, mounted = find_mount(arguments.mountpoint)
    try:
        told = ask(where, mounted, "status", _SECONDS)
    except TimeoutError:
        raise CommandFailed(Exit.TIMED_OUT, f"The daemon of {where} does not answer") from None
    except DaemonUnreachable as error:
        raise CommandFailed(Exit.NOT_ASKED, f"The daemon of {where} cannot be asked ({error})") from None
    print(json.dumps(told) if arguments.json else "\n".join(_lines(told)))
    return Exit.OK


def _lines(told: Message) -> list[str]:
    files = [KeptFile.from_message(message) for message in told["files"]]
    return [
        f"{told['mountpoint']}: depotfs {told['version']}, process {told['pid']}",
        *(f"  {name}: {backend}" for name, backend in told["storages"].items()),
        *(f"  {alias} -> {name}" for alias, name in told["aliases"].items()),
        f"{len(files)} files ({sum(file.size for file in files)} bytes) wait in the spool {told['spool']}",
        *(f"  {line}" for line in kept.lines(files)),
    ]
