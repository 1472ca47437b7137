"""Everything that is not the program under test: time, order, threads, chance, and the record of what happened.

All chance is drawn from the seed and from the name of what is decided, never from a running generator: leaving one
operation out of a case does not change what happens to the others, which is what shrinking stands on.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import outcome
import trio
import trio.testing

from depotfs.remote import workers
from tests.simulation.content import Sparse, of_file
from tests.simulation.plan import Settings

T = TypeVar("T")

EPOCH: Final = 1_700_000_000
"""Seconds: what the clock of the wall shows when a simulation begins."""
_LONGEST: Final = 200_000.0
"""Seconds of virtual time that no case needs: whoever still waits then waits for ever."""
_LONGEST_REAL: Final = 30
"""Seconds of real time after which a case hangs without time going on."""

actor: ContextVar[str] = ContextVar("actor", default="daemon")
"""On whose account something happens: an operation of the case, or the daemon's own tasks."""


class Violation(Exception):
    """An invariant does not hold."""


class Dead(BaseException):
    """What a program was answered comes from a daemon that is dead: it never was."""


class World:
    """The world of one run of a case.

    Args:
        directory: where its disk is; the record does not tell that.

    Attributes:
        lines: what happened, in order, for people.
        errnos: what callers may be answered, after the faults so far.
        fired: names of the faults that happened; suppressed: of those that must not.
        weather: kinds of fault that every call meets now.
        calm: no fault happens.
        violations: what was found by those who could not raise it where it would be seen.
        die: what ends the daemon at once; dead: it was, and what it still does reaches nobody.
        restarting: its programs are to end, so that it can be unmounted and mounted again.
    """

    def __init__(self, settings: Settings, suppressed: frozenset[str], directory: str) -> None:
        self.settings = settings
        self._directory = directory
        self.lines: list[str] = []
        # What takes several calls may then take longer than its deadline.
        self.errnos: set[int] = {errno.EIO} if settings.delay > 1 else set()
        self.fired: list[str] = []
        self.suppressed = suppressed
        self.weather: set[str] = set()
        self.calm = False
        self.violations: list[str] = []
        self.die: Callable[[], None] = lambda: None
        self.dead = False
        self.restarting = False
        self.sent: list[tuple[int, Sparse]] = []
        self.waiting: dict[int, Callable[[], object]] = {}
        self._counts: Counter[str] = Counter()
        self._calls = 0

    # --- chance ------------------------------------------------------------------------------------------------------

    def draw(self, what: str) -> float:
        """A number in [0, 1) that only the seed and `what` decide."""
        digest = hashlib.blake2b(f"{self.settings.seed}/{what}".encode(), digest_size=7).digest()
        return int.from_bytes(digest, "big") / (1 << 56)

    def name(self, what: str) -> str:
        """`what`, told apart from the same of before, on behalf of whoever acts now."""
        key = f"{actor.get()}:{what}"
        self._counts[key] += 1
        return f"{key}:{self._counts[key]}"

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """While inside, nothing fails and nobody dies."""
        calm, self.calm = self.calm, True
        try:
            yield
        finally:
            self.calm = calm

    def strikes(self, kind: str, call: str) -> bool:
        """Whether that kind of fault happens to that call."""
        if self.calm:
            return False
        if kind in self.weather:
            return True
        rate = self.settings.faults.get(kind, 0.0)
        if not rate or self.draw(f"{call}/{kind}") >= rate or f"{call}/{kind}" in self.suppressed:
            return False
        self.fired.append(f"{call}/{kind}")
        return True

    def allow_others(self) -> None:
        """Somebody else changes the storage: what this mount does may be overtaken."""
        self.errnos |= {errno.ESTALE, errno.EEXIST}

    # --- the end of a daemon -----------------------------------------------------------------------------------------

    def point(self, call: str) -> None:
        """The daemon may die here."""
        if self.strikes("crash", call):
            self.say(f"the daemon dies at {call}")
            self.die()

    # --- the record --------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """One line of the record."""
        self.lines.append(f"{self.now():10.3f} {actor.get():>8} {text.replace(self._directory, '')}")

    @staticmethod
    def now() -> float:
        """Seconds of virtual time since the beginning."""
        try:
            return trio.current_time()
        except RuntimeError:
            return 0.0

    def violate(self, text: str) -> None:
        """An invariant was seen broken; the run ends with it."""
        if self.dead:
            return
        self.violations.append(text)
        self.say(f"!!! {text}")

    # --- threads -----------------------------------------------------------------------------------------------------

    async def run_sync(
        self, call: Callable[..., T], *args: Any, abandon_on_cancel: bool = False, limiter: Any = None, **_: Any
    ) -> T:
        """What trio.to_thread.run_sync does, without a thread: it happens in the middle of some virtual time."""
        if limiter is not None:
            async with limiter:
                return await self._call(lambda: call(*args), abandon=abandon_on_cancel, far=True)
        return await self._call(lambda: call(*args), abandon=abandon_on_cancel, far=False)

    async def _call(self, call: Callable[[], T], *, abandon: bool, far: bool) -> T:
        key = self.name("delay")
        before, after = self._delays(key, far=far)
        with trio.CancelScope(shield=not abandon):
            self._calls += 1
            number = self._calls
            if far and not abandon:
                self.waiting[number] = call
            try:
                await trio.sleep(before)
            finally:
                self.waiting.pop(number, None)
            self.sent = []
            self.point(key + "/before")
            answer = outcome.capture(call) if not self.dead else outcome.Error(OSError(errno.EIO, "dead"))
            sent, self.sent = self.sent, []
            self.point(key + "/after")
            await trio.sleep(after)
            if far:
                await _flush_queue()
            self._compare(sent)
        return answer.unwrap()

    def _delays(self, key: str, *, far: bool) -> tuple[float, float]:
        """Seconds until a call reaches what it is for, and until its answer is here."""
        longest = self.settings.delay if far else min(self.settings.delay, 0.05)
        if not longest:
            return 0.0, 0.0
        before, after = self.draw(key + "/before") ** 3 * longest, self.draw(key + "/after") ** 3 * longest
        if far and self.strikes("silence", key):
            self.errnos.add(errno.EIO)
            after += 30.0
        return before, after

    def _compare(self, sent: list[tuple[int, Sparse]]) -> None:
        for fd, content in sent:
            now = of_file(fd, os.fstat(fd).st_size)
            if now != content:
                self.violate(f"bytes changed while they were being stored: {content} is now {now}")

    def land_some(self) -> None:
        """Of the changes that are on their way to a storage, some arrive, as if nobody waited for the answer."""
        for number, call in list(self.waiting.items()):
            if self.draw(f"landing/{number}") < 0.5:
                self.say(f"call {number} arrives after the daemon is dead")
                outcome.capture(call)

    # --- a run -------------------------------------------------------------------------------------------------------

    def run(self, main: Callable[[], Any]) -> None:
        """`main` was awaited in this world. Raises whatever it raises; Violation for a hang."""
        run: Any = trio._core._run
        with _patched(
            (run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
            (run, "_r", random.Random(f"{self.settings.seed}/order")),
            (workers, "run_sync", self.run_sync),
            (os, "urandom", random.Random(f"{self.settings.seed}/urandom").randbytes),
            (time, "time", lambda: EPOCH + self.now()),
            (time, "time_ns", lambda: int((EPOCH + self.now()) * 10**9)),
        ):
            random.seed(self.settings.seed)
            with _alarm():
                trio.run(self._watched, main, clock=trio.testing.MockClock(autojump_threshold=0))

    async def _watched(self, main: Callable[[], Any]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            await main()
            nursery.cancel_scope.cancel()

    @staticmethod
    async def _watch() -> None:
        await trio.sleep(_LONGEST)
        raise Violation("somebody waits for ever")


async def _flush_queue() -> None:
    """What a call has handed to the event loop is done, as it is when a thread's answer arrives behind it."""
    done = trio.Event()
    trio.lowlevel.current_trio_token().run_sync_soon(done.set)
    with trio.CancelScope(shield=True):
        await done.wait()


class Watcher(logging.Handler):
    """What the log says goes into the record; what nobody expected is a violation."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
            if "simulated" not in text:
                formatter = logging.Formatter()
                self._world.violate(f"the log has a traceback: {text}\n{formatter.formatException(record.exc_info)}")
        self._world.say(f"log: {text}")


@contextmanager
def logged(world: World) -> Iterator[None]:
    """While inside, the log is the world's."""
    logger, handler = logging.getLogger("depotfs"), Watcher(world)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def _patched(*places: tuple[Any, str, Any]) -> Iterator[None]:
    before = [(where, name, getattr(where, name)) for where, name, _ in places]
    for where, name, value in places:
        setattr(where, name, value)
    try:
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Violation("it runs without end, and time stands still")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(_LONGEST_REAL)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
