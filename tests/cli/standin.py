"""`python -m tests.cli.standin …`: the command with a daemon that mounts nothing, told by the environment what to do.

STANDIN_FAIL: "spool" finds the spool busy, "sentence" fails with a sentence, "surprise" raises · STANDIN_KEPT: what is
kept in the spool at the end · STANDIN_SLOW: the first SIGTERM is noted in the file of that name, only SIGINT ends it.
"""

import logging
import os
import signal
import sys
import types
from collections.abc import Callable

from depotfs.cli import main
from depotfs.daemon import runtime
from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.settings import Settings
from depotfs.errors import SpoolBusy

_log = logging.getLogger("depotfs.standin")
SIGNALS = {signal.SIGTERM, signal.SIGINT}


def serve(settings: Settings, mountpoint: str, *, ready: Callable[[], None]) -> int:
    failure = os.environ.get("STANDIN_FAIL")
    if failure == "spool":
        raise SpoolBusy("The spool is another daemon's")
    if failure == "sentence":
        raise CommandFailed(Exit.NO_PERMISSION, "The kernel refuses to mount")
    if failure == "surprise":
        raise KeyError("surprise")
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    ready()
    _log.debug("allow other %s, read only %s", settings.allow_other, settings.storages[0].mount.read_only)
    received = signal.sigwait(SIGNALS)
    if noted := os.environ.get("STANDIN_SLOW"):
        with open(noted, "w") as file:
            file.write(signal.Signals(received).name)
        signal.sigwait({signal.SIGINT})
    if kept := os.environ.get("STANDIN_KEPT"):
        runtime.write_outcome(mountpoint, Exit.BYTES_KEPT, kept.split(","))
        return Exit.BYTES_KEPT
    return Exit.OK


if __name__ == "__main__":
    module = types.ModuleType("depotfs.daemon.serve")
    module.__dict__["serve"] = serve
    sys.modules["depotfs.daemon.serve"] = module
    raise SystemExit(main())
