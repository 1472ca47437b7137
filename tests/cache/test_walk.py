"""What is fetched ahead for whoever goes through a directory."""

from __future__ import annotations

import random
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from depotfs.cache.walk import (
    BEGINNERS,
    BYTES,
    FILES,
    LEAST,
    PATIENCE,
    SKIPPED,
    WALKERS,
    Walk,
    closest,
    plan,
    renewed,
    step,
    withdrawn,
)

KIB, MIB = 1 << 10, 1 << 20


def fetched(places: Iterable[int], count: int, size: int = 20 * KIB) -> tuple[Walk, list[int], int]:
    """The walk that used these places one after the other, what was fetched for it, and the most that was ahead."""
    wanted: list[int] = []
    walk, most = Walk(), 0
    for place in places:
        walk = step(walk, place, size)
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


def test_as_many_files_as_were_used_may_be_ahead() -> None:
    walk, ahead = Walk(), []
    for place in range(9):
        walk, _ = plan(step(walk, place), 1000, None)
        ahead.append(walk.ahead - place - 1)
    assert ahead == [0, 0, 3, 4, 5, 6, 7, 8, 9]


@given(st.lists(st.integers(0, 6), max_size=60), st.lists(st.integers(0, MIB), min_size=90, max_size=90))
def test_what_is_asked_for_in_all_is_at_most_twice_what_was_used(steps: list[int], sizes: list[int]) -> None:
    walk, place, used, asked = Walk(), 0, [0], 0
    walk = step(walk, 0, sizes[0])
    for further in steps:
        place = min(place + further, len(sizes) - 1)
        if place != used[-1]:
            used.append(place)
        before, walk = walk, step(walk, place, sizes[place])
        if walk.steps < before.steps:
            used, asked = [place], 0  # another walk
        walk, wanted = plan(walk, len(sizes), sizes.__getitem__)
        asked += sum(sizes[p] for p in wanted)
        ahead = range(place + 1, walk.ahead)
        assert len(ahead) <= len(used)
        assert sum(sizes[p] for p in ahead) <= max(LEAST, sum(sizes[p] for p in used))


def test_files_passed_over_and_several_at_once_are_one_walk() -> None:
    assert fetched(range(0, 200, SKIPPED), 200)[1][-1] == 199
    assert fetched([0, 1, 3, 2, 5, 4, 7, 6, 9, 8], 10)[1] == [4, 5, 6, 7, 8, 9]


def test_a_jump_begins_a_new_walk_there() -> None:
    walk, wanted, _ = fetched([*range(5), *range(500, 505)], 1000)
    assert walk.place == 504
    assert wanted[-1] == 509
    assert not set(wanted) & set(range(20, 503))


def test_content_ahead_is_bounded_in_bytes() -> None:
    _, wanted, most = fetched(range(100), 100, MIB)
    assert most == BYTES // MIB
    assert wanted == list(range(3, 100))


def test_two_walkers_are_two_walks() -> None:
    """One far behind the other, their steps in turn, or in any order."""
    chance, walks = random.Random(2), tuple[Walk, ...]()
    following = {0: 0, 1: 400}
    wanted: list[int] = []
    for _ in range(200):
        walker = chance.randrange(2)
        place = following[walker]
        following[walker] += 1
        old = closest(walks, place)
        new, more = plan(step(old or Walk(), place), 1000, None)
        walks = renewed(walks, old, new)
        wanted += more
    assert len(walks) == 2
    assert sorted(walk.place + 1 for walk in walks) == sorted(following.values())
    assert len(wanted) == len(set(wanted)) > 200


def test_a_walk_begun_behind_another_takes_no_step_of_it() -> None:
    first = Walk(place=100, steps=50, ahead=150, reach=50)
    second = Walk(place=60, steps=50, ahead=110, reach=50)
    assert closest((second, first), 101) is first
    assert closest((first, second), 61) is second
    assert closest((first, second), 300) is None


def test_the_walk_that_went_on_longest_ago_is_forgotten() -> None:
    walks: tuple[Walk, ...] = ()
    for number in range(WALKERS + 1):
        walks = renewed(walks, None, Walk(place=1000 * number, steps=PATIENCE))
        walks = renewed(walks, None, Walk(place=1000 * number + 500))
    assert [walk.place for walk in walks if walk.steady] == [4000, 3000, 2000, 1000]
    assert [walk.place for walk in walks if not walk.steady] == [4500, 3500]
    assert len(walks) == WALKERS + BEGINNERS


def test_what_was_too_old_is_fetched_again_half_as_far_ahead() -> None:
    walk, _, _ = fetched(range(200), 10_000, KIB)
    again, wanted = plan(withdrawn(walk), 10_000, None)
    assert wanted == range(200, 200 + FILES // 2)
    ahead = []
    for place in range(200, 240):
        again, _ = plan(step(again, place), 10_000, None)
        ahead.append(again.ahead - place - 1)
    assert ahead[-1] == FILES // 2 + 10  # a file more each four steps: a slow walker gets no twice as much again
    while again.reach > 1:
        again = withdrawn(again)
    assert len(plan(step(again, 240), 10_000, None)[1]) <= 2


def test_a_walk_takes_some_patience() -> None:
    assert not Walk(steps=PATIENCE - 1).steady
    assert Walk(steps=PATIENCE).steady
