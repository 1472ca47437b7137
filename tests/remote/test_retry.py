"""When a failed call is made again."""

from __future__ import annotations

from depotfs.remote.retry import ATTEMPTS, LARGEST_DELAY, retry_delay


def test_delays_grow_and_stay_bounded() -> None:
    delays = [retry_delay(failures, None, 1000, 0.999) for failures in range(1, ATTEMPTS)]
    assert all(delay is not None and delay <= LARGEST_DELAY for delay in delays)
    assert delays == sorted(delays, key=lambda delay: delay or 0)


def test_gives_up_after_its_attempts_and_at_the_deadline() -> None:
    assert retry_delay(ATTEMPTS, None, 1000, 0.5) is None
    assert retry_delay(1, None, 0.01, 0.5) is None


def test_what_the_server_asked_for_is_waited() -> None:
    assert retry_delay(1, 7.0, 1000, 0.0) == 7.0
    assert retry_delay(1, 7.0, 5.0, 0.0) is None


def test_jitter_spreads_callers() -> None:
    assert retry_delay(2, None, 1000, 0.0) != retry_delay(2, None, 1000, 0.9)
