"""`depotfs mount`: serves the configured storages as directories."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace

from depotfs.cli.arguments import Subparsers, add_config, typed
from depotfs.daemon import config, logs, mountpoint, nesting, notify, places
from depotfs.daemon.background import run_in_background
from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.secrets import find_secrets
from depotfs.daemon.settings import Settings
from depotfs.daemon.values import parse_log_level


def add_parser(commands: Subparsers) -> None:
    """Adds `mount` to the commands."""
    text = "mount the configured storages; without a configuration one, `default`, in ./files"
    parser = commands.add_parser("mount", help=text, description=text)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="an empty directory")
    add_config(parser)
    parser.add_argument("--daemon", action="store_true", help="go on in the background; return when the mount answers")
    parser.add_argument("--allow-other", action="store_true", help="let other users in")
    parser.add_argument("--read-only", action="store_true", help="refuse every change")
    parser.add_argument(
        "--log-level", metavar="LEVEL", type=typed(parse_log_level), help="DEBUG, INFO, WARNING or ERROR"
    )
    parser.add_argument("--log-file", metavar="FILE", help="write the log there instead of to stderr")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Serves until unmounted, or returns once the daemon in the background does. CommandFailed, ConfigurationError."""
    where = mountpoint.resolve(arguments.mountpoint)
    mountpoint.check(where)
    if not arguments.daemon:
        return _serve(arguments, where, arguments.log_file, lambda settings: _announce(settings, where))
    log_file = arguments.log_file or places.log_file(where)
    log_file = os.path.abspath(log_file)
    code = run_in_background(lambda ready: _serve(arguments, where, log_file, lambda _: ready()), log_file)
    if code == Exit.OK:
        print(f"depotfs: serving at {where}; the log is {log_file}")
    return code


def _serve(
    arguments: argparse.Namespace, where: str, log_file: str | None, say_ready: Callable[[Settings], None]
) -> int:
    settings = _settings(arguments)
    nesting.check(settings, where, log_file)
    if settings.allow_other:
        mountpoint.check_allow_other()
    if mountpoint.is_dead(where):
        # Only now: until then whoever looks gets ENOTCONN, and no mirroring tool takes it for an empty directory.
        mountpoint.detach(where)
        mountpoint.check(where)
        nesting.check(settings, where, log_file)  # what the dead mount hid
    sys.path[:] = [path for path in sys.path if not nesting.is_within(path, where)]  # `python -m` in the mountpoint
    _set_up_log(settings, log_file)
    # Late, so that a child in the background was forked before any SDK or event loop came to be.
    from depotfs.daemon.serve import serve

    def ready() -> None:
        notify.ready()
        say_ready(settings)

    return serve(settings, where, ready=ready)


def _settings(arguments: argparse.Namespace) -> Settings:
    """What is configured, with what the command line says instead."""
    settings = config.load_found(arguments.config)
    if arguments.read_only:
        storages = (replace(s, mount=replace(s.mount, read_only=True)) for s in settings.storages)
        settings = replace(settings, storages=tuple(storages), mount=replace(settings.mount, read_only=True))
    return replace(
        settings,
        allow_other=settings.allow_other or arguments.allow_other,
        log_level=arguments.log_level or settings.log_level,
    )


def _set_up_log(settings: Settings, file: str | None) -> None:
    try:
        logs.set_up(settings.log_level, file, secrets=find_secrets(settings))
    except OSError as error:
        sentence = f"The log file {file} cannot be opened: {error.strerror}"
        raise CommandFailed(Exit.NO_PERMISSION, sentence) from None


def _announce(settings: Settings, where: str) -> None:
    count = len(settings.storages)
    way_out = "; Ctrl-C unmounts" if sys.stdout.isatty() else ""
    print(f"depotfs: serving {count} {'storage' if count == 1 else 'storages'} at {where}{way_out}", flush=True)
