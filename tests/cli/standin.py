"""`python -m tests.cli.standin …`: the command with a daemon that cannot start, told by STANDIN_FAIL why not.

"spool" finds the spool busy, "sentence" fails with a sentence, "surprise" raises.
"""

import os
import sys
import types
from collections.abc import Callable

from depotfs.cli import main
from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.settings import Settings
from depotfs.errors import SpoolBusy


def serve(settings: Settings, mountpoint: str, *, ready: Callable[[], None]) -> int:
    match os.environ["STANDIN_FAIL"]:
        case "spool":
            raise SpoolBusy("The spool is another daemon's")
        case "sentence":
            raise CommandFailed(Exit.NO_PERMISSION, "The kernel refuses to mount")
    raise KeyError("surprise")


if __name__ == "__main__":
    module = types.ModuleType("depotfs.daemon.serve")
    module.__dict__["serve"] = serve
    sys.modules["depotfs.daemon.serve"] = module
    raise SystemExit(main())
