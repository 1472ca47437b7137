"""What is fetched ahead for whoever goes through a directory."""

from __future__ import annotations

import random
from collections.abc import Iterable

from depotfs.cache.walk import BYTES, FILES, SKIPPED, Walk, plan, step

KIB, MIB = 1 << 10, 1 << 20


def fetched(places: Iterable[int], count: int, size: int = 20 * KIB) -> tuple[Walk, list[int], int]:
    """The walk that used these places one after the other, what was fetched for it, and the most that was ahead."""
    wanted: list[int] = []
    walk, most = Walk(), 0
    for place in places:
        walk = step(walk, place)
        walk, more = plan(walk, count, lambda _: size)
        wanted.extend(more)
        most = max(most, walk.ahead - walk.place - 1)
    return walk, wanted, most


def test_a_walk_is_fetched_ahead_once_each_and_never_behind_the_end() -> None:
    _, wanted, most = fetched(range(1000), 1000)
    assert wanted == list(range(3, 1000))
    assert most == FILES


def test_nothing_is_fetched_for_two_neighbours_or_for_jumps() -> None:
    assert fetched([7, 8], 1000)[1] == []
    assert fetched([0, 100, 200, 300, 50, 900], 1000)[1] == []
    assert fetched([5, 5, 5, 5], 1000)[1] == []
    assert fetched(range(100, 0, -1), 1000)[1] == []


def test_random_use_of_a_large_directory_fetches_hardly_anything() -> None:
    chance = random.Random(1)
    assert len(fetched([chance.randrange(100_000) for _ in range(2000)], 100_000)[1]) < 20


def test_the_window_grows_from_two() -> None:
    walk, ahead = Walk(), []
    for place in range(9):
        walk, _ = plan(step(walk, place), 1000, lambda _: 1)
        ahead.append(walk.ahead - place - 1)
    assert ahead == [0, 0, 2, 4, 8, 16, 32, 64, 64]


def test_files_passed_over_and_several_at_once_are_one_walk() -> None:
    assert fetched(range(0, 200, SKIPPED), 200)[1][-1] == 199
    assert fetched([0, 1, 3, 2, 5, 4, 7, 6, 9, 8], 10)[1] == [4, 5, 6, 7, 8, 9]


def test_a_jump_begins_a_new_walk_there() -> None:
    walk, wanted, _ = fetched([*range(5), *range(500, 505)], 1000)
    assert walk.place == 504
    assert wanted[-1] == 512
    assert not set(wanted) & set(range(20, 503))


def test_content_ahead_is_bounded_in_bytes() -> None:
    _, wanted, most = fetched(range(100), 100, MIB)
    assert most == BYTES // MIB
    assert wanted == list(range(3, 100))
