"""Measuring: contestants in turn, round by round, medians, and a table of ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Contestant = Callable[[], float]
"""One round of the work, prepared, done and cleared away; returns the seconds that count."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        medians: seconds by contestant, depotfs first.
        target: what is to be reached, in words; reached: None where there is nothing to compare with.
    """

    work: str
    medians: Mapping[str, float]
    result: str
    target: str
    reached: bool | None


def compare(
    work: str,
    contestants: Mapping[str, Contestant],
    *,
    rounds: int,
    against: str,
    target: float,
    slower: bool = False,
) -> Row:
    """All contestants once per round, first in turn, so that what the machine does meanwhile hits all of them alike.

    Args:
        target: how fast depotfs has to be in relation to `against`: at least that many times as fast; for
            `slower`: at most that many times as long.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for number in range(rounds):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            seconds[name].append(contestants[name]())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    if against not in medians:
        return Row(work, medians, "–", f"{against} is not installed", None)
    ratio = medians["depotfs"] / medians[against] if slower else medians[against] / medians["depotfs"]
    reached = ratio <= target if slower else ratio >= target
    words = f"{'<=' if slower else '>='} {target:g} × {against}"
    return Row(work, medians, f"{ratio:.2f}", words, reached)


def limit(work: str, value: float, unit: str, at_most: float) -> Row:
    """A value of depotfs alone."""
    return Row(work, {}, f"{value:.3g} {unit}", f"<= {at_most:g} {unit}", value <= at_most)


def timed(work: Callable[[], object]) -> float:
    """Seconds that it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def show(row: Row) -> None:
    """One line of the table, at once."""
    mark = {True: "reached", False: "MISSED", None: ""}[row.reached]
    medians = "  ".join(f"{name} {_seconds(value)}" for name, value in row.medians.items())
    print(f"{row.work:<44} {row.result:>10}   {row.target:<26} {mark:<8} {medians}", flush=True)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"
