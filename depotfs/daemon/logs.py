"""Logs: where the daemon's messages go and how they look there."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Levels of syslog, as the journal reads them in `<N>` before a line (sd-daemon(3))."""


def set_up(level: str, file: str | None = None) -> None:
    """Messages of that level and above go to the end of the file, or to stderr.

    On stderr they are written as the journal wants them, if it is what listens there. A file that is renamed
    (logrotate) is made anew, its directory is made if missing. Of other libraries only warnings and errors are shown.

    Raises:
        OSError: the file cannot be opened.
    """
    if file:
        os.makedirs(os.path.dirname(os.path.abspath(file)), 0o700, exist_ok=True)
    handler = logging.handlers.WatchedFileHandler(file) if file else logging.StreamHandler()
    journal = file is None and _is_journal()
    handler.setFormatter(_JournalFormatter() if journal else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("depotfs").setLevel(level)


def _is_journal() -> bool:
    """Whether stderr is the very stream that systemd connected to its journal (systemd.exec(5))."""
    found = os.fstat(sys.stderr.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _JournalFormatter(logging.Formatter):
    """Each line with its priority; the journal knows the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        priority = _PRIORITIES.get(record.levelno, 6)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())
