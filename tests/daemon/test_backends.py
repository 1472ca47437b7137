"""What the constructor of a storage class takes."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

import pytest

from depotfs.daemon.backends import Arguments, build, identity, import_backend
from depotfs.daemon.settings import StorageSettings
from depotfs.errors import ConfigurationError
from depotfs.io.foreign import ForeignStorage
from depotfs.io.local import LocalFileStorage
from depotfs.io.memory import MemoryFileStorage


class Picky:
    """A storage of somebody else's."""

    def __init__(
        self,
        text: str,
        number: int = 0,
        seconds: float | None = None,
        *,
        switch: bool = False,
        table: Mapping[str, str] | None = None,
        path: str | PathLike[str] = "",
        untold: Any = None,
    ) -> None:
        if text == "refused":
            raise ValueError("text must be something else")
        if text == "surprise":
            raise KeyError("a surprise")

    def nothing(self, *arguments: Any) -> None: ...

    get = create = replace = delete = exists = list = nothing


ARGUMENTS = Arguments(Picky)


def test_names_and_required_ones_are_known() -> None:
    assert ARGUMENTS.names == ["text", "number", "seconds", "switch", "table", "path", "untold"]
    assert not ARGUMENTS.open
    assert ARGUMENTS.missing(["number"]) == ["text"]
    assert Arguments(MemoryFileStorage).open


@pytest.mark.parametrize(
    ("name", "given", "fitting"),
    [
        ("text", "5", "5"),
        ("number", 5, 5),
        ("number", "8KiB", 8192),
        ("seconds", 5, 5),
        ("seconds", "2m", 120.0),
        ("seconds", None, None),
        ("switch", False, False),
        ("table", {"a": "b"}, {"a": "b"}),
        ("path", 7, 7),
        ("untold", [1], [1]),
        ("unknown", 1, 1),
    ],
)
def test_values_that_fit(name: str, given: object, fitting: object) -> None:
    assert ARGUMENTS.fit(name, given) == fitting


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("text", 5, "text, found a number"),
        ("text", None, "text, found nothing"),
        ("number", True, "a whole number, found yes or no"),
        ("number", [1], "a whole number, found a list"),
        ("number", 3.5, "a whole number, found a number"),
        ("seconds", "soon", "a duration like 1s or 5m"),
        ("switch", 1, "yes or no, found a number"),
        ("table", "a", "a mapping, found text"),
    ],
)
def test_values_that_do_not_fit_say_what_was_expected(name: str, given: object, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        ARGUMENTS.fit(name, given)
    assert str(caught.value) == expected


def test_filedepots_names_mean_our_classes() -> None:
    assert import_backend("depot.io.local.LocalFileStorage") is LocalFileStorage


def test_a_class_of_somebody_elses_is_built_too() -> None:
    backend = f"{Picky.__module__}.Picky"
    assert isinstance(build(StorageSettings("a", backend, {"text": "x"})), ForeignStorage)
    with pytest.raises(ConfigurationError, match=r"storage a: .*Picky: text must be something else"):
        build(StorageSettings("a", backend, {"text": "refused"}))
    with pytest.raises(ConfigurationError, match=r"storage a: .*Picky: .*unexpected"):
        build(StorageSettings("a", backend, {"text": "x", "unknown": 1}))
    with pytest.raises(ConfigurationError, match=r"^storage a: .*Picky: KeyError: .*surprise.* \(.*\.py:\d+\)$"):
        build(StorageSettings("a", backend, {"text": "surprise"}))


def test_two_of_a_class_that_does_not_say_what_it_is_are_told_by_their_options() -> None:
    backend = f"{Picky.__module__}.Picky"
    one, other, changed = (StorageSettings("a", backend, {"text": text, "number": 1}) for text in ("x", "x", "secret"))
    assert identity(one, build(one)) == identity(other, build(other))
    assert identity(one, build(one)) != identity(changed, build(changed))
    assert "secret" not in identity(changed, build(changed))
    ours = StorageSettings("b", "depotfs.io.local.LocalFileStorage", {"storage_path": "/srv/files"})
    assert identity(ours, build(ours)) == "local:/srv/files"
