"""The command `depotfs`: its arguments, and which function answers to them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import depotfs
from depotfs.cli import backup, check, mount, status, umount
from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.errors import ConfigurationError, DepotError, SpoolBusy


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code (`depotfs.daemon.exits`). What went wrong is said on stderr.

    Raises:
        SystemExit: for wrong arguments, `--help` and `--version`; in the child of `mount --daemon` always.
    """
    arguments, unknown = _parser().parse_known_args(argv)
    if unknown:  # which the command itself answers to, by its own usage
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return int(arguments.run(arguments))
    except CommandFailed as error:
        return _fail(error, error.code)
    except ConfigurationError as error:
        return _fail(error, Exit.USAGE)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except SpoolBusy as error:
        return _fail(error, Exit.SPOOL_BUSY)
    except DepotError as error:
        return _fail(error, Exit.UNEXPECTED)


def _fail(error: Exception, code: Exit) -> int:
    print(f"depotfs: {error}" if "\n" not in str(error) else error, file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="depotfs", description="Stored files as files.")
    parser.add_argument("--version", action="version", version=f"depotfs {depotfs.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (mount, umount, status, check, backup):
        command.add_parser(commands)
    return parser
