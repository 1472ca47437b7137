"""`depotfs umount`: ends a mount once everything is stored."""

from __future__ import annotations

import argparse
import sys

from depotfs.cli.arguments import Subparsers, typed
from depotfs.daemon import control, mountpoint
from depotfs.daemon.control import DaemonUnreachable, Message
from depotfs.daemon.exits import CommandFailed, Exit, exit_of
from depotfs.daemon.holders import find_holders
from depotfs.daemon.mountpoint import Mounted
from depotfs.io.durations import parse_duration


def add_parser(commands: Subparsers) -> None:
    """Adds `umount` to the commands."""
    text = "store what is not stored yet, unmount, and return when the daemon has ended"
    parser = commands.add_parser("umount", help=text, description=text)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    text = "wait at most that long, 300 by default; the daemon goes on storing then"
    parser.add_argument("--timeout", metavar="SECONDS", type=typed(parse_duration), default=300.0, help=text)
    text = "unmount at once, though it be in use; the spool keeps what is not stored for the next mount"
    parser.add_argument("--now", action="store_true", help=text)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Returns when the mount is gone and its daemon has ended, with what became of its bytes. CommandFailed."""
    where, mounted = find_mount(arguments.mountpoint)
    try:
        reply = ask(where, mounted, "end now" if arguments.now else "end", arguments.timeout)
    except TimeoutError:
        sentence = f"The daemon of {where} is still storing files after {arguments.timeout:g} s and will continue"
        raise CommandFailed(Exit.TIMED_OUT, sentence) from None
    except DaemonUnreachable as error:
        raise _without_daemon(where, error) from None
    return _tell_outcome(where, reply)


def find_mount(path: str) -> tuple[str, Mounted]:
    """The absolute path of a mount of ours, and what the kernel tells of it. CommandFailed."""
    where = mountpoint.resolve(path)
    mounted = mountpoint.find(where)
    if mounted is None or mounted.type != mountpoint.FILESYSTEM:
        raise CommandFailed(Exit.NOT_MOUNTED, f"No depotfs is mounted at {where}")
    return where, mounted


def ask(where: str, mounted: Mounted, request: str, timeout: float) -> Message:
    """What its daemon answers. DaemonUnreachable, TimeoutError; CommandFailed: it is another user's."""
    try:
        return control.ask(mounted, request, timeout)
    except PermissionError:
        owner = mountpoint.user_name(mounted.owner)
        sentence = f"The mount at {where} is {owner}'s; only that user and root may ask its daemon"
        raise CommandFailed(Exit.NO_PERMISSION, sentence) from None


def _without_daemon(where: str, error: DaemonUnreachable) -> CommandFailed:
    """A dead mount is detached; whether everything is stored nobody can tell, so this is never a success."""
    if not mountpoint.is_ours(where):
        return CommandFailed(Exit.NOT_MOUNTED, f"No depotfs is mounted at {where} any more")
    if not mountpoint.is_dead(where):
        sentence = f"The daemon of {where} cannot be asked, so nothing was unmounted ({error})"
        return CommandFailed(Exit.NOT_ASKED, sentence)
    mountpoint.detach(where)
    sentence = f"The daemon of {where} died; the next mount there stores what its spool has"
    return CommandFailed(Exit.BYTES_KEPT, sentence)


def _tell_outcome(where: str, reply: Message) -> int:
    for line in reply.get("kept", ()):
        print(f"depotfs: kept in the spool: {line}", file=sys.stderr)
    code = exit_of(reply["code"])
    if code is Exit.IN_USE:
        for line in find_holders(where):
            print(f"depotfs: in use by {line}", file=sys.stderr)
        sentence = f"{reply['reason']}, so it is still mounted and goes on serving; --now detaches it all the same"
        raise CommandFailed(Exit.IN_USE, sentence)
    if code is Exit.BYTES_KEPT:
        sentence = f"{where} is unmounted, but {reply['untold']} files are not stored; the spool keeps them"
        raise CommandFailed(Exit.BYTES_KEPT, sentence)
    if code is not Exit.OK:
        raise CommandFailed(code, reply["reason"])
    return code
