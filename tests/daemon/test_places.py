"""Where a mount keeps things."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depotfs.daemon import places
from depotfs.daemon.exits import CommandFailed
from depotfs.daemon.settings import Settings

MOUNTPOINT = "/srv/photos"
PATHS = st.lists(st.text("ab-\\x2d. é\udc80", min_size=1, max_size=150), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)


def test_escaping_is_readable() -> None:
    assert places.escape("/srv/photos") == "srv-photos"
    assert places.escape("/srv/my-photos/.x") == r"srv-my\x2dphotos-.x"
    assert places.escape("/") == "-"


@given(PATHS, PATHS)
def test_every_path_has_a_file_name_of_its_own(one: str, other: str) -> None:
    name = places.escape(one)
    assert "/" not in name
    assert 0 < len(name.encode()) <= 200
    assert name not in (".", "..")
    assert (name == places.escape(other)) == (one.strip("/") == other.strip("/"))


def test_the_spool_is_the_configured_directory_or_one_per_mountpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    embedded = Settings((), "default")
    assert places.spool_directory(embedded, MOUNTPOINT) == "/home/me/state/depotfs/spool/srv-photos"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/depotfs:/var/lib/other")
    assert places.spool_directory(embedded, MOUNTPOINT) == "/var/lib/depotfs/spool/srv-photos"
    assert places.spool_directory(Settings((), "default", spool_directory="/spool"), MOUNTPOINT) == "/spool"


def test_a_user_without_a_home_is_asked_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(CommandFailed, match="XDG_STATE_HOME"):
        places.state_directory()
