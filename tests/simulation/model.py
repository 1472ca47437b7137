"""The reference: what a POSIX directory would show, where some of what was done may have happened or not.

What is known of the directory is a set of *worlds*, each a full assignment of files to places. A change that is under
way, or that was answered with an error, is in some worlds and not in others; whatever is then seen leaves out the
worlds in which it could not have been seen. If none is left, something was shown that cannot be.

A *place* is what names lead to: a plain name and the id derived from it are two names of one place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.simulation.content import Sparse
from tests.simulation.world import World

Place = str

_MOST_WORLDS: Final = 2000
"""More can be what happened after very many failures at once: nothing is to be learned from such a run any more."""


class Unknowable(Exception):
    """Too much may have happened."""


class File:
    """One file: a sequence of contents, of which some may be what is seen now.

    Attributes:
        states: all contents that it may have had, in the order in which they came to be.
        live: which of them may be read now.
        kept: the first of them that may be read after the daemon was killed, None: it may be gone.
        durable: the same after a loss of power.
        modified: seconds, as stat(2) has to show it; None: unknown.
        been: the places where it was.
        origins: the places under which the storage may have it while it is seen under a scratch name.
        outside: somebody else made it.
        replaced: files that it took the place of, which may be back if nothing of it was promised.
        goes_on: a change of it was answered with an error and may still be under way.
        lineage: of twins, the same: two files that a rename on its way may have made of one.
        doubtful: what should have replaced or removed it failed, and may have happened.
    """

    def __init__(self, number: int, content: Sparse, *, outside: bool = False) -> None:
        self.number = number
        self.states = [content]
        self.live = {0}
        self.kept: int | None = None
        self.durable: int | None = None
        self.modified: int | None = None
        self.been: set[Place] = set()
        self.origins: set[Place] = set()
        self.outside = outside
        self.replaced: set[File] = set()
        self.goes_on = False
        self.lineage = number
        self.doubtful = False
        self._changes = 0
        self._readers: list[set[int]] = []

    def __repr__(self) -> str:
        return f"file {self.number}"

    @contextmanager
    def changing(self, change: Callable[[Sparse], Sparse]) -> Iterator[Change]:
        """While inside, readers may see either; after an error too, unless the change is told that it is undone."""
        before = set(self.live)
        after = {self._add(change(self.states[index])) for index in sorted(before)}
        self._show(self.live | after)
        self._changes += 1
        modified, self.modified = self.modified, None
        made = Change(self, before)
        try:
            yield made
            if made.instead is not None:
                after = {self._add(made.instead(self.states[index])) for index in sorted(before)}
            self._show(self.live | after if self._changes > 1 else after)
        except BaseException:
            if made.undone:
                self._show(before)
                self.modified = modified
            self.goes_on = self.goes_on or made.goes_on
            raise
        finally:
            self._changes -= 1

    def _add(self, content: Sparse) -> int:
        last = len(self.states) - 1
        if last in self.live and self.states[last] == content:
            return last
        self.states.append(content)
        return last + 1

    def _show(self, live: set[int]) -> None:
        self.live = live
        for reader in self._readers:
            reader |= live

    @contextmanager
    def reading(self) -> Iterator[set[int]]:
        """The contents that may be read by what is asked inside."""
        seen = set(self.live)
        self._readers.append(seen)
        try:
            yield seen
        finally:
            self._readers = [other for other in self._readers if other is not seen]

    def read(self, seen: set[int], offset: int, size: int, data: bytes) -> bool:
        """Whether those bytes may be read of one of the contents seen."""
        return self._see(seen, lambda content: content.read(offset, size) == data)

    def measured(self, seen: set[int], size: int) -> bool:
        """Whether one of the contents seen has that size."""
        return self._see(seen, lambda content: content.size == size)

    def _see(self, seen: set[int], fits: Callable[[Sparse], bool]) -> bool:
        fitting = {index for index in seen if fits(self.states[index])}
        if fitting and seen == self.live and not self._changes and not self.goes_on:
            self.live = fitting
        return bool(fitting)

    def acknowledge(self, first: int, *, durable: bool) -> None:
        """From now on no content before that one may be what is left."""
        self.kept = max(first, -1 if self.kept is None else self.kept)
        if durable:
            self.durable = max(first, -1 if self.durable is None else self.durable)

    def may_be_left(self, content: Sparse, *, power: bool) -> bool:
        """Whether that may be its content after the daemon died."""
        first = self.durable if power else self.kept
        return content in self.states[first or 0 :]

    def describe(self) -> str:
        """What is known of it, for people."""
        states = "; ".join(
            f"{'>' if index in self.live else ' '}{'!' if index == self.kept else ''}{state}"
            for index, state in enumerate(self.states)
        )
        return f"file {self.number} ({states})"


@dataclass(eq=False)
class Change:
    """A change of a file's content that is under way."""

    file: File
    before: set[int]
    undone: bool = False
    goes_on: bool = False
    instead: Callable[[Sparse], Sparse] | None = None


Names = dict[Place, File | None]


@dataclass(frozen=True, eq=False)
class Known:
    """One world: what is at each place, and how far the unsettled changes are in it."""

    names: Names
    stages: dict[int, str]

    def key(self) -> object:
        return frozenset(self.names.items()), frozenset(self.stages.items())


class Mutation:
    """A change of the directory that is under way, or of which nobody knows whether it happened.

    Attributes:
        late: nobody waits for it any more: a later change of its places is the last of it, unless it goes on.
    """

    def __init__(self, number: int, places: tuple[Place, ...]) -> None:
        self.number = number
        self.places = places
        self.late = False
        self.goes_on = False

    def steps(self, names: Names, stage: str) -> Iterator[tuple[Names, str]]:
        """What may come next in a world in which it is at that stage: "" not begun, "done" done."""
        raise NotImplementedError


class Making(Mutation):
    """A new file, where there was none."""

    def __init__(self, number: int, place: Place, file: File) -> None:
        super().__init__(number, (place,))
        self.file = file

    def steps(self, names: Names, stage: str) -> Iterator[tuple[Names, str]]:
        if not stage and names[self.places[0]] is None:
            yield {**names, self.places[0]: self.file}, "done"


class Removing(Mutation):
    """A file goes."""

    def steps(self, names: Names, stage: str) -> Iterator[tuple[Names, str]]:
        if not stage and names[self.places[0]] is not None:
            yield {**names, self.places[0]: None}, "done"


class Outside(Mutation):
    """Somebody else puts or removes a file, and with it what was renamed to a scratch name but is not stored there."""

    def __init__(self, number: int, place: Place, file: File | None) -> None:
        super().__init__(number, (place,))
        self.file = file

    def steps(self, names: Names, stage: str) -> Iterator[tuple[Names, str]]:
        (place,) = self.places
        if not stage:
            yield {**names, place: self.file}, "done"
        if stage != "all":
            moved = [other for other, file in names.items() if file is not None and place in file.origins]
            if moved:
                yield {**names, **dict.fromkeys(moved), place: names[place] if stage else self.file}, "all"


class Moving(Mutation):
    """A rename. On its way there may be two files, the moved one at either place."""

    def __init__(self, number: int, old: Place, new: Place, numbers: Iterator[int], *, to_scratch: bool) -> None:
        super().__init__(number, (old, new))
        self.to_scratch = to_scratch
        self._numbers = numbers
        self._twins: dict[File, File] = {}

    def twin(self, file: File) -> File:
        """The other of the two."""
        if file not in self._twins:
            twin = self._twins[file] = File(next(self._numbers), file.states[0])
            twin.states, twin.live = list(file.states), set(file.live)
            twin.lineage = file.lineage
            twin.kept, twin.durable, twin.origins = file.kept, file.durable, set(file.origins)
        return self._twins[file]

    def steps(self, names: Names, stage: str) -> Iterator[tuple[Names, str]]:
        old, new = self.places
        file = names[old]
        if not stage and file is not None and old != new:
            file.been.add(old)
            if self.to_scratch:
                file.origins.add(old)
            if (replaced := names[new]) is not None:
                file.replaced |= {replaced, *replaced.replaced}
            yield {**names, new: self.twin(file)}, "copied"
            yield {**names, old: self.twin(file), new: file}, "taken"
            yield {**names, old: None, new: file}, "done"
        elif stage == "copied":
            yield {**names, old: None, new: file}, "done"
            if self.late:
                yield {**names, old: None}, "done"  # who looked in between knows it as another one
        elif stage == "taken":
            yield {**names, old: None}, "done"


@dataclass(eq=False)
class Look:
    """Something that is being looked at: all worlds that there were meanwhile."""

    seen: dict[object, Known] = field(default_factory=dict)
    disturbed: bool = False


class Model:
    """All that is known.

    Args:
        places: everything that a name can lead to; scratch: those of scratch names.
    """

    def __init__(self, world: World, places: Iterable[Place], scratch: Iterable[Place]) -> None:
        self.world = world
        self.places = tuple(places)
        self.scratch = frozenset(scratch)
        self.numbers = itertools.count(1)
        self._worlds: dict[object, Known] = {}
        self._past: dict[Place, set[File]] = {place: set() for place in self.places}
        self._pending: list[Mutation] = []
        self._looks: list[Look] = []
        self._become([Known(dict.fromkeys(self.places), {})])

    # --- the worlds --------------------------------------------------------------------------------------------------

    def _become(self, worlds: Iterable[Known]) -> None:
        """These are the worlds, and those that the unsettled changes lead to from them."""
        self._worlds = {}
        todo = list(worlds)
        while todo:
            known = todo.pop()
            key = known.key()
            if key in self._worlds:
                continue
            self._worlds[key] = known
            if len(self._worlds) > _MOST_WORLDS:
                raise Unknowable
            for place, file in known.names.items():
                if file is not None:
                    self._past[place].add(file)
            for mutation in self._pending:
                for names, stage in mutation.steps(known.names, known.stages.get(mutation.number, "")):
                    todo.append(Known(names, {**known.stages, mutation.number: stage}))
        for look in self._looks:
            look.seen.update(self._worlds)
            look.disturbed = True

    def file(self, content: Sparse, *, outside: bool = False) -> File:
        """A new file."""
        return File(next(self.numbers), content, outside=outside)

    def at(self, place: Place) -> set[File | None]:
        """What may be there now."""
        return {known.names[place] for known in self._worlds.values()}

    def places_of(self, file: File) -> list[Place]:
        """Where the file is for sure."""
        return [place for place in self.places if self.at(place) == {file}]

    def begin(self, mutation: Mutation) -> None:
        """It may happen from now on."""
        self._pending.append(mutation)
        self._become(self._worlds.values())

    def may_have_happened(self, mutation: Mutation) -> bool:
        """Whether it is done in any of the worlds."""
        return any(known.stages.get(mutation.number) == "done" for known in self._worlds.values())

    def happened(self, mutation: Mutation) -> None:
        """It was answered: it has happened, and what was unsettled at its places will not happen after it."""
        worlds = [known for known in self._worlds.values() if known.stages.get(mutation.number) == "done"]
        if not worlds:
            self.world.violate(
                f"{type(mutation).__name__} of {mutation.places} cannot have happened\n{self.describe()}"
            )
        self._pending.remove(mutation)
        places = set(mutation.places)
        self._pending = [
            other for other in self._pending if not other.late or other.goes_on or not places & set(other.places)
        ]
        self._become([self._settled(known) for known in worlds])

    def failed(self, mutation: Mutation, *, goes_on: bool) -> None:
        """It was answered with an error: nobody knows whether it has happened, or, if it goes on, will."""
        mutation.late, mutation.goes_on = True, goes_on
        self._become(self._worlds.values())
        for file in self.at(mutation.places[-1]):
            if file is not None:
                file.doubtful = True

    def did_not_happen(self, mutation: Mutation) -> None:
        """It was answered that nothing is or was changed."""
        self._pending.remove(mutation)
        worlds = [known for known in self._worlds.values() if not known.stages.get(mutation.number)]
        self._become([self._settled(known) for known in worlds])

    def _settled(self, known: Known) -> Known:
        """Without the stages of what is not pending any more."""
        alive = {mutation.number for mutation in self._pending}
        return Known(known.names, {number: stage for number, stage in known.stages.items() if number in alive})

    def settle(self) -> None:
        """Whatever has not happened by now never will: nothing is under way."""
        self._pending = []
        self._become([self._settled(known) for known in self._worlds.values()])
        for file in {file for place in self.places for file in self.at(place) if file is not None}:
            file.goes_on = False

    # --- looking -----------------------------------------------------------------------------------------------------

    @contextmanager
    def looking(self) -> Iterator[Look]:
        """Inside, something is looked at that is told of by `saw`."""
        look = Look(dict(self._worlds))
        self._looks.append(look)
        try:
            yield look
        finally:
            self._looks = [other for other in self._looks if other is not look]

    def saw(self, look: Look, place: Place, fits: Callable[[File | None], bool], what: str) -> None:
        """`what` was seen at the place. A violation if that can be in none of the worlds that there were."""
        if not any(fits(known.names[place]) for known in look.seen.values()):
            self.world.violate(f"{what} was seen at {place}, where there can be no such thing\n{self.describe()}")
        elif not look.disturbed:
            fitting = [known for known in self._worlds.values() if fits(known.names[place])]
            if len(fitting) < len(self._worlds):
                self._become(fitting)

    def candidates(self, look: Look, place: Place) -> set[File]:
        """The files that may have been seen there."""
        return {file for known in look.seen.values() if (file := known.names[place]) is not None}

    # --- crashes -----------------------------------------------------------------------------------------------------

    def compare(self, found: dict[Place, Sparse | None], *, power: bool) -> None:
        """That is what is there after the daemon died. A violation if it cannot be what is left."""
        reasons = [self._why_not(known.names, found, power=power) for known in self._worlds.values()]
        if all(reasons):
            left = "\n".join(f"  {place}: {content}" for place, content in found.items())
            self.world.violate(f"{min(map(str, reasons), key=len)}; what is left:\n{left}\n{self.describe()}")

    def recover(self, found: dict[Place, Sparse | None], stored: set[Place]) -> None:
        """That is what is there from now on; the storage itself has it at the places in `stored`."""
        names: Names = dict.fromkeys(self.places)
        for place, content in found.items():
            if content is not None:
                file = names[place] = self.file(content)
                file.kept = 0
                file.durable = 0 if place in stored else None
        # What others did may be hidden still by what this mount has not stored.
        self._pending = [mutation for mutation in self._pending if isinstance(mutation, Outside)]
        self._past = {place: set() for place in self.places}
        self._become([Known(names, {})])

    def _why_not(self, names: Names, found: dict[Place, Sparse | None], *, power: bool) -> str | None:
        """Why that cannot be left of such a world, None: it can."""
        for place, file in names.items():
            content = found[place]
            if file is not None and content is not None and file.may_be_left(content, power=power):
                continue
            if file is not None and file.durable is None and power and self.world.settings.kind == "local":
                continue  # nobody said that it would outlast that
            if content is not None and not self._may_be_back(names, place, content, found, power=power):
                return f"{content} is at {place}"
            if content is None and file is not None and not self._may_be_gone(file, place, found, power=power):
                return f"nothing is at {place}"
        return None

    def _may_be_back(
        self, names: Names, place: Place, content: Sparse, found: dict[Place, Sparse | None], *, power: bool
    ) -> bool:
        """Whether it is what the storage still has of a file that is elsewhere, since it was or is being renamed."""
        made = names[place]
        if made is not None and content in made.states and self._has_twin(names, place, found, power=power):
            return True
        if made is not None and self._is_back(made, found, power=power):
            return any(content in file.states for file in made.replaced)  # as if the rename had never been
        if made is not None and (made.durable if power else made.kept) is not None:
            return False
        if (power or self._forgives_leftovers) and any(content in file.states for file in self._past[place]):
            return True  # what removed it was not flushed, or not heard of
        if made is not None and any(content in file.states for file in made.replaced):
            return True
        moved = (file for scratch, file in names.items() if scratch in self.scratch and file is not None)
        return any(place in file.origins and content in file.states for file in moved)

    @staticmethod
    def _has_twin(names: Names, place: Place, found: dict[Place, Sparse | None], *, power: bool) -> bool:
        """Whether all that was acknowledged of the file is at another place."""
        made = names[place]
        return any(
            other != place
            and file is not None
            and made is not None
            and file.lineage == made.lineage
            and (content := found[other]) is not None
            and file.may_be_left(content, power=power)
            for other, file in names.items()
        )

    def _may_be_gone(self, file: File, place: Place, found: dict[Place, Sparse | None], *, power: bool) -> bool:
        if (file.durable if power else file.kept) is None:
            return True
        return (place in self.scratch or power) and self._is_back(file, found, power=power)

    @property
    def _forgives_leftovers(self) -> bool:
        return "leftovers" not in self.world.settings.checks and bool(self.world.errnos)

    def _is_back(self, file: File, found: dict[Place, Sparse | None], *, power: bool) -> bool:
        """Whether a file whose last rename is not stored, or not flushed, is where it was before."""
        local = self.world.settings.kind == "local"
        back = [found[place] for place in (file.been if power and local else file.origins)]
        return any(content is not None and file.may_be_left(content, power=power) for content in back)

    def describe(self) -> str:
        """All worlds, for people."""
        files = {file for known in self._worlds.values() for file in known.names.values() if file is not None}
        worlds = [
            "  " + ", ".join(f"{place}: {file}" for place, file in known.names.items() if file is not None)
            for known in itertools.islice(self._worlds.values(), 12)
        ]
        lines = [f"  {file.describe()}" for file in sorted(files, key=lambda file: file.number)]
        return "\n".join(["what may be:", *worlds, "files:", *lines])
