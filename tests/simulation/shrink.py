"""Shrinking: a case that fails is made as small as it can be and still fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from tests.simulation.plan import Case, without
from tests.simulation.run import Result, run

T = TypeVar("T")


def shrunk(case: Case, result: Result) -> Case:
    """The smallest case found that fails with the same kind of violation."""
    kind = _kind(result)

    def fails(smaller: Case) -> bool:
        return _kind(run(smaller)) == kind

    for _ in range(2):
        case = _with_fewer_faults(_with_fewer_operations(case, fails), fails)
        case = _without_waits(case, fails)
    return case


def _without_waits(case: Case, fails: Callable[[Case], bool]) -> Case:
    for number, operation in enumerate(case.operations):
        if operation.wait:
            sooner = list(case.operations)
            sooner[number] = replace(operation, wait=0.0)
            if fails(without(case, sooner)):
                case = without(case, sooner)
    return case


def _with_fewer_operations(case: Case, fails: Callable[[Case], bool]) -> Case:
    return without(case, least(case.operations, lambda some: fails(without(case, some))))


def _with_fewer_faults(case: Case, fails: Callable[[Case], bool]) -> Case:
    fired = [fault for fault in run(case).fired if fault not in case.suppressed]

    def only(some: Sequence[str]) -> Case:
        return without(case, case.operations, set(fired) - set(some))

    return only(least(fired, lambda some: fails(only(some))))


def _kind(result: Result) -> str | None:
    """What distinguishes one violation from another: its words, without names and numbers."""
    if result.violation is None:
        return None
    first = result.violation.split("\n")[0]
    return " ".join(word for word in first.split() if word.isalpha())


def least(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> tuple[T, ...]:
    """As few of the items as still fail, in their order."""
    kept = list(items)
    size = max(1, len(kept) // 2)
    while True:
        start, smaller = 0, False
        while start < len(kept):
            rest = kept[:start] + kept[start + size :]
            if fails(rest):
                kept, smaller = rest, True
            else:
                start += size
        if size == 1 and not smaller:
            return tuple(kept)
        size = max(1, size // 2)
