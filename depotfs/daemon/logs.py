"""Logs: where the daemon's messages go and how they look there: a line each, without control characters or secrets."""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import sys
from collections.abc import Collection
from typing import Final

_PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Levels of syslog, as the journal reads them in `<N>` before a line (sd-daemon(3))."""
_BREAKS: Final = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


def set_up(level: str, file: str | None = None, *, secrets: Collection[str] = ()) -> None:
    """Messages of that level and above go to the end of the file, or to stderr.

    On stderr they are written as the journal wants them, if it is what listens there. A file that is renamed
    (logrotate) is made anew, its directory is made if missing. Of other libraries only warnings and errors are shown.

    Args:
        secrets: texts that are not shown, whoever logs them.

    Raises:
        OSError: the file cannot be opened.
    """
    if file:
        os.makedirs(os.path.dirname(os.path.abspath(file)), 0o700, exist_ok=True)
    handler = logging.handlers.WatchedFileHandler(file, encoding="utf-8") if file else logging.StreamHandler()
    journal = file is None and _is_journal()
    handler.setFormatter(_Formatter(secrets, journal=journal))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("depotfs").setLevel(level)


def one_line(text: str) -> str:
    """The text with spaces for line breaks, and other characters that a terminal would obey shown as escapes."""
    folded = _BREAKS.sub(" ", text.strip())
    if folded.isprintable():
        return folded
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in folded)


def _is_journal() -> bool:
    """Whether stderr is the very stream that systemd connected to its journal (systemd.exec(5))."""
    found = os.fstat(sys.stderr.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _Formatter(logging.Formatter):
    """A line for each message, and one for each of a traceback, which follows it.

    Args:
        journal: each line with its priority; the journal knows the time itself.
    """

    def __init__(self, secrets: Collection[str], *, journal: bool) -> None:
        super().__init__("%(message)s" if journal else "%(asctime)s %(levelname)s %(message)s")
        self._journal = journal
        longest_first = sorted(map(re.escape, secrets), key=len, reverse=True)
        self._secret = re.compile("|".join(longest_first)) if longest_first else None

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that `logging` calls
        record.message = one_line(self._without_secrets(record.message))
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        lines = self._without_secrets(super().format(record)).splitlines()
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>" if self._journal else ""
        return "\n".join(f"{prefix}{line}" for line in lines)

    def _without_secrets(self, text: str) -> str:
        return text if self._secret is None else self._secret.sub("***", text)
