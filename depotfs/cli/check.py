"""`depotfs config check`: says whether a configuration is right."""

from __future__ import annotations

import argparse

from depotfs.cli.arguments import Subparsers
from depotfs.daemon import config, mountpoint, nesting
from depotfs.daemon.exits import Exit


def add_parser(commands: Subparsers) -> None:
    """Adds `config check` to the commands."""
    text = "look at a configuration"
    group = commands.add_parser("config", help=text, description=text)
    subcommands = group.add_subparsers(required=True, metavar="WHAT")
    text = "name every mistake in it with file and line; no storage is contacted"
    parser = subcommands.add_parser("check", help=text, description=text)
    parser.add_argument("file", metavar="FILE", nargs="?", help="otherwise the one that mount would take")
    text = "say also whether it can be mounted there: no storage and no spool may lie in its own mount"
    parser.add_argument("--mountpoint", metavar="DIRECTORY", help=text)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints what is configured. ConfigurationError with the mistakes."""
    path = config.find_config(arguments.file)
    settings = config.load_found(arguments.file)
    if arguments.mountpoint is not None:
        nesting.check(settings, mountpoint.resolve(arguments.mountpoint))
    print(f"{path}: no mistakes" if path else "no configuration: the embedded one is used")
    for storage in settings.storages:
        print(f"  {storage.name}: {storage.backend}{' (default)' if storage.name == settings.default else ''}")
    for alias, target in settings.aliases.items():
        print(f"  {alias} -> {target}")
    return Exit.OK
