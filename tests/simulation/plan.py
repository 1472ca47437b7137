"""A case: the settings of a run and the operations that its programs do, all decided by one seed before it begins."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

KINDS: Final = ("memory", "far", "plain", "local")
PLAIN: Final = ("a.txt", "b.txt", "c.txt")
SCRATCH: Final = (".s", "a.txt~", ".t")
IDS: Final = ("0f5cbb5a-2b4b-4f5e-9d8c-27d7a6c1a001", "0f5cbb5a2b4b4f5e9d8c27d7")
OWN_ID: Final = "id of "
"""Before a plain name in a case: the id that it is derived from, as a name."""

CALLS: Final = {
    "unavailable": 0.15, "lost": 0.25, "odd": 0.05, "full": 0.1, "quota": 0.1, "disk": 0.05, "conflict": 0.15,
    "denied": 0.1, "damaged": 0.1, "silence": 0.03, "missing": 0.05,
    "crash": 0.03, "no room": 0.05, "bad disk": 0.03,
}  # fmt: skip
"""Kinds of fault of a single call, and how often they happen at most."""
WEATHERS: Final = ("unavailable", "denied", "missing", "full")
"""Kinds that last for a while."""
OTHERS: Final = ("outside", "power", "restart", "weather", "slow", "large", "alias", "background", "same version")
"""What else a seed may have."""
FEATURES: Final = (*CALLS, *OTHERS)
UNSETTLED: Final = (
    "lost", "conflict", "denied", "damaged", "silence", "missing", "crash",
    "no room", "bad disk", "power", "outside", "weather", "slow", "background", "leaks", "leftovers",
)  # fmt: skip
"""Features and checks that the mount does not stand yet: `make test` leaves them out, `make sim` does not."""

CHECKS: Final = ("truncate", "scratch", "leaks", "leftovers")
"""Invariants that a run may leave out: what was only truncated is kept when it is closed; what a scratch name leads to
is under that name after an unmount; no node is left that nobody needs; what a storage failed to remove stays away
after a crash."""

_CALLS: Final = {
    "open": 4, "read": 3, "write": 4, "ftruncate": 1, "truncate": 1, "close": 3, "dup": 1, "fsync": 1, "unlink": 1,
    "rename": 3, "touch": 1, "stat": 2, "list": 1, "fsyncdir": 1, "reclaim": 1,
}  # fmt: skip
"""Operations, and how often they are among others."""

_SMALL: Final = (0, 1, 100, 511, 4096, 5000)
_EDGES: Final = (128 << 10, 1 << 20, 4 << 20, 8 << 20, 16 << 20, 40 << 20)


@dataclass(frozen=True, slots=True)
class Settings:
    """What does not change during a run.

    Attributes:
        seed: of everything that is not said here.
        kind: of storage, see `storage.make`.
        faults: kind of fault -> how often a call meets it.
        delay: longest time in seconds that a call is on its way, in each direction.
        same_version: equal bytes have equal versions, as with an ETag.
        moves: the storage moves a file in one step.
        sizes: what sizes and offsets are near.
        ends: "power": half of the crashes are losses of power.
        checks: of those that can be left out.
    """

    seed: int
    kind: str = "far"
    background: bool = False
    attr_timeout: float = 1.0
    scratch_delay: float = 300.0
    alias: bool = False
    delay: float = 0.0
    same_version: bool = False
    moves: bool = False
    faults: dict[str, float] = field(default_factory=dict)
    names: tuple[str, ...] = (*PLAIN[:2], *SCRATCH[:2])
    sizes: tuple[int, ...] = _SMALL
    programs: int = 2
    ends: tuple[str, ...] = ()
    checks: tuple[str, ...] = CHECKS


@dataclass(frozen=True, slots=True)
class Operation:
    """What one program does next.

    Attributes:
        number: its name, kept when others are left out.
        program: who does it.
        wait: seconds of virtual time before it.
    """

    number: int
    program: int
    do: str
    wait: float = 0.0
    with_: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        arguments = " ".join(f"{key}={value}" for key, value in self.with_.items())
        return f"{self.number:4} [{self.program}] {'+%.3g s ' % self.wait if self.wait else ''}{self.do} {arguments}"


@dataclass(frozen=True, slots=True)
class Case:
    """A run that can be repeated: `suppressed` names faults that do not happen though their seed wants them."""

    settings: Settings
    operations: tuple[Operation, ...]
    suppressed: frozenset[str] = frozenset()

    def dump(self) -> str:
        """As text, for a test."""
        return json.dumps(
            {
                "settings": asdict(self.settings),
                "operations": [[o.number, o.program, o.do, o.wait, o.with_] for o in self.operations],
                "suppressed": sorted(self.suppressed),
            }
        )

    @classmethod
    def load(cls, text: str) -> Case:
        """What `dump` gave."""
        fields = json.loads(text)
        settings: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in fields["settings"].items()}
        operations = tuple(Operation(*operation) for operation in fields["operations"])
        return cls(Settings(**settings), operations, frozenset(fields["suppressed"]))


def case(seed: int, features: Iterable[str] = (*FEATURES, *CHECKS), kind: str = "") -> Case:
    """The case of a seed, of these features at most: each seed has some of them (swarm testing).

    A feature that is left out changes nothing else in the case, nor does another kind of storage.
    """
    features = set(features)
    chosen = _chosen(seed, features)
    chance = random.Random(f"{seed}/settings")
    delay = chance.choice((0.0, 0.02, 0.5, 3.0))
    drawn = chance.choice(KINDS)
    rates = {kind: most * chance.random() for kind, most in CALLS.items()}
    settings = Settings(
        seed,
        kind=kind or drawn,
        background="background" in chosen,
        attr_timeout=chance.choice((0.0, 1.0, 1.0)),
        scratch_delay=chance.choice((300.0, 300.0, 5.0)),
        alias="alias" in chosen,
        delay=delay if "slow" in chosen else min(delay, 0.02),
        same_version="same version" in chosen,
        moves=chance.random() < 0.3,
        faults={kind: rate for kind, rate in rates.items() if kind in chosen},
        names=_names(chance),
        sizes=_sizes(chance, large="large" in chosen),
        programs=chance.choice((1, 2, 2, 3)),
        ends=("power",) if "power" in chosen else (),
        checks=tuple(check for check in CHECKS if check in features),
    )
    return Case(settings, tuple(_Plan(settings, chosen).operations()))


def _chosen(seed: int, allowed: set[str]) -> set[str]:
    chance = random.Random(f"{seed}/features")
    rarely = chance.random() < 0.3
    likely = {feature: chance.random() < (0.1 if rarely else 0.35) for feature in FEATURES}
    return {feature for feature in FEATURES if likely[feature] and feature in allowed}


def _names(chance: random.Random) -> tuple[str, ...]:
    plain = PLAIN[: chance.choice((1, 2, 2, 3))]
    scratch = SCRATCH[: chance.choice((0, 1, 2, 3))]
    ids = IDS[: chance.choice((0, 0, 1, 2))]
    own = [OWN_ID + plain[0]] if chance.random() < 0.3 else []
    return (*plain, *scratch, *ids, *own)


def _sizes(chance: random.Random, *, large: bool) -> tuple[int, ...]:
    if not large:
        return _SMALL
    edges = chance.sample(_EDGES, 2)
    return (*_SMALL[:3], *(edge + by for edge in edges for by in (-1, 0, 1)))


class _Plan:
    """Makes the operations of a case."""

    def __init__(self, settings: Settings, chosen: set[str]) -> None:
        self.settings = settings
        self.chosen = chosen
        self.chance = random.Random(f"{settings.seed}/plan")
        self.number = 0

    def operations(self) -> Iterator[Operation]:
        for _ in range(self.chance.choice((10, 20, 30, 40, 60))):
            yield from self._some()

    def _make(self, program: int, do: str, **with_: Any) -> Operation:
        self.number += 1
        return Operation(self.number, program, do, self._wait(), with_)

    def _wait(self) -> float:
        draw = self.chance.random()
        if draw < 0.5:
            return 0.0
        if draw < 0.95:
            return round(self.chance.random() ** 2 * 1.5, 3)
        return self.chance.choice((3.0, 10.0, 10.0, 400.0))

    def _some(self) -> Iterator[Operation]:
        """What one program does, or what happens to all."""
        draw = self.chance.random()
        program = self.chance.randrange(self.settings.programs)
        outer = self._outer(program)
        if draw < 0.12:
            if outer is not None:
                yield outer
        elif draw < 0.4:
            yield from self._habit(program)
        else:
            yield self._single(program)

    def _outer(self, program: int) -> Operation | None:
        chance = self.chance
        what = chance.choice(("outside", "outside", "crash", "restart", "weather", "weather"))
        name, kind = self._name(), chance.choice(WEATHERS)
        act, length = chance.choice(("put", "put", "remove", "touch")), self._size()
        long = chance.choice((0.5, 5.0, 60.0))
        if what not in self.chosen:
            return None
        if what == "outside":
            return self._make(-1 - program, "outside", act=act, name=name, size=length)
        if what == "weather":
            return self._make(-1 - program, "weather", kind=kind, seconds=long)
        return self._make(-1, what)

    def _name(self) -> str:
        return self.chance.choice(self.settings.names)

    def _size(self) -> int:
        size = self.chance.choice(self.settings.sizes)
        return size if self.chance.random() < 0.8 else self.chance.randrange(size + 1)

    def _handle(self) -> int:
        return self.chance.randrange(3)

    def _single(self, program: int) -> Operation:
        chance, name, handle, size = self.chance, self._name(), self._handle(), self._size()
        other, length = self._name(), chance.choice((1, 7, 300, 300, 5000))
        alias = self.settings.alias and chance.random() < 0.4
        do = chance.choices(list(_CALLS), list(_CALLS.values()))[0]
        make = self._make
        if do == "open":
            return make(program, do, name=name, handle=handle, flags=self._flags(), alias=alias)
        if do in ("read", "write"):
            return make(program, do, handle=handle, offset=size, size=length)
        if do in ("ftruncate",):
            return make(program, do, handle=handle, size=size)
        if do == "truncate":
            return make(program, do, name=name, size=size, alias=alias)
        if do in ("close", "dup", "fsync"):
            return make(program, do, handle=handle)
        if do == "rename":
            return make(program, do, name=name, to=other, noreplace=chance.random() < 0.15, alias=alias)
        if do == "touch":
            return make(program, do, name=name, time=chance.randrange(10**9), alias=alias)
        if do in ("unlink", "stat"):
            return make(program, do, name=name, alias=alias)
        return make(program, do, alias=alias)

    def _flags(self) -> int:
        access = self.chance.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR))
        flags = access
        for flag, share in ((os.O_CREAT, 0.6), (os.O_TRUNC, 0.25), (os.O_APPEND, 0.2), (os.O_EXCL, 0.1)):
            if self.chance.random() < share:
                flags |= flag
        return flags if access else flags & ~os.O_TRUNC

    # --- what programs do ------------------------------------------------------------------------------------------

    def _habit(self, program: int) -> Iterator[Operation]:
        habit = self.chance.choice((self._copy, self._copy, self._append, self._save, self._backup, self._look))
        yield from habit(program)

    def _copy(self, program: int) -> Iterator[Operation]:
        """As cp and a shell's `>`."""
        handle = self._handle()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        yield self._make(program, "open", name=self._name(), handle=handle, flags=flags, alias=False)
        yield from self._fill(program, handle)
        yield self._make(program, "close", handle=handle)

    def _fill(self, program: int, handle: int) -> Iterator[Operation]:
        size = self._size()
        if size > 10_000:
            yield self._make(program, "ftruncate", handle=handle, size=size)
            yield self._make(program, "write", handle=handle, offset=max(0, size - 50), size=50)
        if size:
            yield self._make(program, "write", handle=handle, offset=0, size=min(size, 300))

    def _append(self, program: int) -> Iterator[Operation]:
        """As a log."""
        handle = self._handle()
        flags = os.O_WRONLY | os.O_APPEND | self.chance.choice((0, os.O_CREAT))
        yield self._make(program, "open", name=self._name(), handle=handle, flags=flags, alias=False)
        for _ in range(self.chance.choice((1, 2))):
            yield self._make(program, "write", handle=handle, offset=0, size=self.chance.choice((1, 40)))
        yield self._make(program, "close", handle=handle)

    def _save(self, program: int) -> Iterator[Operation]:
        """As rsync: into a temporary file that is renamed."""
        handle, temporary, name = self._handle(), self._name(), self._name()
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        yield self._make(program, "open", name=temporary, handle=handle, flags=flags, alias=False)
        yield from self._fill(program, handle)
        if self.chance.random() < 0.3:
            yield self._make(program, "fsync", handle=handle)
        last = [self._make(program, "close", handle=handle)]
        move = self._make(program, "rename", name=temporary, to=name, noreplace=False, alias=False)
        yield from [*last, move] if self.chance.random() < 0.8 else [move, *last]

    def _backup(self, program: int) -> Iterator[Operation]:
        """As vim: the old file is renamed away, written anew, and its backup removed."""
        handle, name, backup = self._handle(), self._name(), self._name()
        yield self._make(program, "rename", name=name, to=backup, noreplace=False, alias=False)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        yield self._make(program, "open", name=name, handle=handle, flags=flags, alias=False)
        yield from self._fill(program, handle)
        yield self._make(program, "close", handle=handle)
        if self.chance.random() < 0.5:
            yield self._make(program, "unlink", name=backup, alias=False)

    def _look(self, program: int) -> Iterator[Operation]:
        """As cat."""
        handle = self._handle()
        yield self._make(program, "open", name=self._name(), handle=handle, flags=os.O_RDONLY, alias=False)
        yield self._make(program, "readall", handle=handle)
        yield self._make(program, "close", handle=handle)


def without(case: Case, operations: Iterable[Operation], suppressed: Iterable[str] = ()) -> Case:
    """The case with these operations only, and without these faults too."""
    return replace(case, operations=tuple(operations), suppressed=case.suppressed | frozenset(suppressed))
