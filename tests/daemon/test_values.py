"""What the scalars of a configuration mean."""

import os
from collections.abc import Callable

import pytest

from depotfs.daemon import values
from depotfs.daemon.settings import CommitMode
from depotfs.io.durations import parse_duration


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (values.parse_size, "512MiB", 512 << 20),
        (values.parse_size, "1.5 KiB", 1536),
        (values.parse_size, "2GB", 2_000_000_000),
        (values.parse_size, "4096", 4096),
        (parse_duration, "250ms", 0.25),
        (parse_duration, "5m", 300.0),
        (parse_duration, "0", 0.0),
        (parse_duration, "1.5", 1.5),
        (values.parse_mode, "0644", 0o644),
        (values.parse_mode, "644", 0o644),
        (values.parse_mode, "0o750", 0o750),
        (values.parse_user, "0", 0),
        (values.parse_user, "root", 0),
        (values.parse_group, "root", 0),
        (values.parse_commit, "background", CommitMode.BACKGROUND),
        (values.parse_log_level, "debug", "DEBUG"),
        (values.parse_entry_name, "Привет", "Привет"),
        (values.parse_entry_name, "a" * 255, "a" * 255),
    ],
)
def test_a_value_is_read_from_its_text(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (values.parse_size, "-1"),
        (values.parse_size, "12 parsecs"),
        (values.parse_size, "٣MiB"),
        (values.parse_size, "9" * 400),
        (parse_duration, "1:30"),
        (parse_duration, "soon"),
        (values.parse_deadline, "0s"),
        (values.parse_mode, "0888"),
        (values.parse_mode, "7777"),
        (values.parse_mode, "-1"),
        (values.parse_user, "nobody-of-that-name"),
        (values.parse_user, "root\0"),
        (values.parse_user, str(2**32 - 1)),
        (values.parse_group, ""),
        (values.parse_group, "9" * 5000),
        (values.parse_path, "a\0b"),
        (values.parse_commit, "Close"),
        (values.parse_log_level, "LOUD"),
        (values.parse_entry_name, ".hidden"),
        (values.parse_entry_name, ".."),
        (values.parse_entry_name, "a/b"),
        (values.parse_entry_name, "a\0b"),
        (values.parse_entry_name, "ж" * 128),
    ],
)
def test_what_is_no_value_says_what_was_expected(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert str(caught.value).startswith(("a ", "the ", "permission ", "close ", "DEBUG"))
    assert not caught.value.__cause__


@pytest.mark.parametrize(
    "parse",
    [
        values.parse_size,
        parse_duration,
        values.parse_deadline,
        values.parse_mode,
        values.parse_user,
        values.parse_group,
        values.parse_commit,
        values.parse_log_level,
        values.parse_entry_name,
        values.parse_text,
        values.parse_path,
    ],
)
def test_the_empty_text_is_no_value(parse: Callable[[str], object]) -> None:
    with pytest.raises(ValueError):
        parse("")


def test_a_user_without_a_name_goes_by_the_number() -> None:
    assert values.parse_user(str(os.getuid())) == os.getuid()
