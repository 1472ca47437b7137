"""`depotfs backup`: brings one storage's files into another."""

from __future__ import annotations

import argparse
import sys

from depotfs.backup import BackupProgress, backup
from depotfs.cli.arguments import Subparsers, add_config, typed
from depotfs.daemon import config
from depotfs.daemon.backends import build
from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.settings import Settings, StorageSettings
from depotfs.io.interfaces import FileStorage


def add_parser(commands: Subparsers) -> None:
    """Adds `backup` to the commands."""
    text = "bring every file of a storage into another, with its id, filename, content type and time"
    parser = commands.add_parser("backup", help=text, description=f"{text}; what is there already is not sent again")
    parser.add_argument("source", metavar="SOURCE", help="a configured storage or alias")
    parser.add_argument("target", metavar="TARGET", help="another one")
    add_config(parser)
    parser.add_argument("--delete", action="store_true", help="delete from TARGET what SOURCE does not have")
    parser.add_argument("--workers", metavar="N", type=typed(_count), default=4, help="files at a time, 4 by default")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Copies, names each file that could not be copied, prints the sums. CommandFailed, DepotError."""
    settings = config.load_found(arguments.config)
    source, target = _find(settings, arguments.source), _find(settings, arguments.target)
    if source is target:
        raise CommandFailed(Exit.USAGE, f"{arguments.source} and {arguments.target} are the same storage")
    return _copy(build(source), build(target), arguments)


def _copy(source: FileStorage, target: FileStorage, arguments: argparse.Namespace) -> int:
    progress = _show if sys.stderr.isatty() else None
    try:
        report = backup(source, target, workers=arguments.workers, delete=arguments.delete, progress=progress)
    finally:
        source.close()
        target.close()
        if progress:
            print(file=sys.stderr)
    for failure in report.failures:
        print(f"depotfs: {failure.file_id}: {failure.error}", file=sys.stderr)
    print(
        f"{report.copied} copied ({report.copied_bytes} bytes), {report.unchanged} unchanged, {report.deleted} deleted,"
        f" {report.vanished} gone meanwhile, {len(report.failures)} failed"
    )
    return Exit.OK if report.ok else Exit.BACKUP_INCOMPLETE


def _count(text: str) -> int:
    if not text.isdecimal() or text == "0":
        raise ValueError("a number above zero")
    return int(text)


def _find(settings: Settings, name: str) -> StorageSettings:
    real = settings.aliases.get(name, name)
    for storage in settings.storages:
        if storage.name == real:
            return storage
    names = ", ".join([*(storage.name for storage in settings.storages), *settings.aliases])
    raise CommandFailed(Exit.USAGE, f"No storage or alias is named {name!r}; the configured ones are {names}")


def _show(progress: BackupProgress) -> None:
    print(f"\r{progress.copied} copied, {progress.unchanged} unchanged", end="", file=sys.stderr, flush=True)
