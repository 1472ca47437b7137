"""A shared flush serves all who wait for it: for sixty-four a disk needs hardly longer than for one."""

from __future__ import annotations

import copy
import threading
from collections import defaultdict
from collections.abc import Callable
from functools import partial

from depotfs import disk


class SharedFlush:
    """Whoever comes while a flush is under way waits for the next one, together with all others who did. Thread-safe.

    Args:
        flush: makes durable what was done before it began; raises OSError. Never called twice at once.
    """

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._changed = threading.Condition()
        self._running = False
        self._begun = 0
        self._done = 0
        self._failed: tuple[int, OSError] | None = None

    def wait(self) -> None:
        """What was done before the call is durable. Raises OSError: of the flush that was to make it so."""
        with self._changed:
            wanted = self._begun + 1
            while self._running and self._done < wanted:
                self._changed.wait()
                if self._failed is not None and self._done < wanted <= self._failed[0]:
                    raise copy.copy(self._failed[1])
            if self._done >= wanted:
                return
            self._running = True
            self._begun += 1
            number = self._begun
        self._run(number)

    def _run(self, number: int) -> None:
        done, failed = number, None
        try:
            self._flush()
        except BaseException as error:
            done = 0
            failed = (number, error) if isinstance(error, OSError) else None
            raise
        finally:
            with self._changed:
                self._running = False
                self._done = max(self._done, done)
                self._failed = failed or self._failed
                self._changed.notify_all()


class Directories:
    """Directories that new files come to be in: one flush serves all entries that were made before. Thread-safe."""

    def __init__(self) -> None:
        self._shared: dict[str, SharedFlush] = {}
        self._made: defaultdict[str, int] = defaultdict(lambda: 1)  # by whoever was here before
        self._flushed: defaultdict[str, int] = defaultdict(int)

    def note_entry(self, path: str) -> None:
        """Something was made in that directory."""
        self._made[path] += 1

    def flush(self, path: str) -> None:
        """Whatever was made in that directory is found there after a loss of power. Raises OSError."""
        made = self._made[path]
        if self._flushed[path] < made:
            self._shared.setdefault(path, SharedFlush(partial(disk.sync_directory, path))).wait()
            self._flushed[path] = max(self._flushed[path], made)
