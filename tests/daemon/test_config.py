"""From a YAML file to settings, or to all its mistakes."""

import errno
import json
import os
from pathlib import Path

import pytest

from depotfs.daemon.backends import LOCAL
from depotfs.daemon.config import find_config, load
from depotfs.daemon.settings import MIB, CommitMode, MountSettings, Settings, StorageSettings
from depotfs.errors import ConfigurationError

OWN_CLASSES = """
from depotfs.io.memory import MemoryFileStorage

class Plain(MemoryFileStorage):
    def __init__(self, bucket: str, *, expires: float | None = None, part_size: int = 5, keep=False, extra=None):
        pass

class NotAStorage:
    def get(self): ...
"""


def write(directory: Path, text: str) -> str:
    """The path of a configuration with that text, beside a folder `lib` with classes of the user's own."""
    (directory / "lib").mkdir(exist_ok=True)
    (directory / "lib" / "own_storages.py").write_text(OWN_CLASSES)
    (directory / "lib" / "broken_storage.py").write_text("def (:\n")
    path = directory / "depotfs.yaml"
    path.write_text(text)
    return str(path)


def mistakes(path: str) -> list[str]:
    """What is wrong with that configuration, a line each, without the file's name."""
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


def test_without_a_file_there_is_one_local_storage_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = str(tmp_path / "files")
    assert load(None) == Settings((StorageSettings("default", LOCAL, {"storage_path": files}),), "default")
    assert not os.path.exists(files)


def test_everything_that_can_be_set_is(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
storages:
  avatars:
    depot.backend: own_storages.Plain
    depot.bucket: faces
    expires: 1h
    part_size: 8MiB
    keep: yes
    extra: {a: [1, 2]}
    mount: {commit: background, file_mode: 0600, read_only: no}
  papers: {storage_path: ../papers}
  scans:
    storage_path: /srv/scans
default: paper
aliases: {paper: papers, face: avatars}
mount:
  attr_timeout: 0
  scratch: ['.*', '#*#']
  scratch_delay: 1m
  deadline: 10s
  read_only: true
  dir_mode: 750
  uid: 7
  gid: root
  allow_other: yes
  spool: spool
  spool_size: 2GiB
  cache_size: 64MiB
python_path: lib
log_level: warning
""",
    )
    mount = MountSettings(
        attr_timeout=0.0,
        scratch=(".*", "#*#"),
        scratch_delay=60.0,
        deadline=10.0,
        read_only=True,
        dir_mode=0o750,
        uid=7,
        gid=0,
    )
    avatars = MountSettings(
        commit=CommitMode.BACKGROUND,
        attr_timeout=0.0,
        scratch=(".*", "#*#"),
        scratch_delay=60.0,
        deadline=10.0,
        file_mode=0o600,
        dir_mode=0o750,
        uid=7,
        gid=0,
    )
    options = {"bucket": "faces", "expires": 3600.0, "part_size": 8 * MIB, "keep": True, "extra": {"a": [1, 2]}}
    assert load(path) == Settings(
        storages=(
            StorageSettings("avatars", "own_storages.Plain", options, avatars),
            StorageSettings("papers", LOCAL, {"storage_path": str(tmp_path.parent / "papers")}, mount),
            StorageSettings("scans", LOCAL, {"storage_path": "/srv/scans"}, mount),
        ),
        default="papers",
        aliases={"paper": "papers", "face": "avatars"},
        mount=mount,
        spool_directory=str(tmp_path / "spool"),
        spool_size=2 << 30,
        cache_size=64 * MIB,
        allow_other=True,
        log_level="WARNING",
        python_path=(str(tmp_path / "lib"),),
        source=path,
    )


def test_all_mistakes_are_named_at_once_with_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """storage: {}
storages:
  avatars:
    backend: own_storages.Plain
    depot.backend: own_storages.Plain
    bucket: 5
    bukket: x
    part_size: many
    expires: soon
    mount: {comit: close, commit: later, attr_timeout: -1s}
  needy:
    backend: own_storages.Plain
    extra: {a: 1, a: 2}
  .hidden: {storage_path: /srv/1}
  a/b: {storage_path: /srv/2}
  twice: {storage_path: /srv/3}
  twice: {storage_path: /srv/3}
  list: [storage_path, /srv]
  gone:
    backend: no.such.Storage
  broken:
    backend: broken_storage.Storage
  other:
    backend: own_storages.NotAStorage
aliases:
  twice: avatars
  one: avatars
  two: one
  three: nothing
  ..: avatars
default: nobody
mount:
  file_mode: rw
  scratch: {a: b}
  read_only: 1
  spool_size: 12 parsecs
  deadline: 0
  uid:
python_path: [lib, missing]
log_level: loud
""",
    )
    names = "avatars, needy, .hidden, a/b, twice, list, gone, broken, other"
    entry = "a name that a directory can have: no leading dot, no slash, at most 255 bytes"
    assert mistakes(path) == [
        "1: storage: unknown key, expected storages?",
        "5: storages.avatars.depot.backend: expected only one of backend and depot.backend",
        "6: storages.avatars.bucket: expected text, found a number",
        "7: storages.avatars.bukket: unknown key, expected bucket?",
        "8: storages.avatars.part_size: expected a size like 512MiB",
        "9: storages.avatars.expires: expected a duration like 1s or 5m",
        "10: storages.avatars.mount.attr_timeout: expected a duration like 1s or 5m, found '-1s'",
        "10: storages.avatars.mount.comit: unknown key, expected commit?",
        "10: storages.avatars.mount.commit: expected close or background, found 'later'",
        "11: storages.needy.bucket: missing, own_storages.Plain needs it",
        "13: storages.needy.extra.a: expected once, it is in line 13 already",
        f"14: storages..hidden: expected {entry}",
        f"15: storages.a/b: expected {entry}",
        "17: storages.twice: expected once, it is in line 16 already",
        "18: storages.list.storage_path: missing, depotfs.io.local.LocalFileStorage needs it",
        "18: storages.list: expected keys with values",
        *[line for line in mistakes(path) if line.startswith(("20: ", "22: "))],
        "24: storages.other.backend: own_storages.NotAStorage is not a storage:"
        " it has no create, replace, delete, exists, list",
        "26: aliases.twice: expected a name of its own, a storage has this one",
        "28: aliases.two: expected a storage, 'one' is an alias",
        f"29: aliases.three: expected a storage ({names}), found 'nothing'",
        f"30: aliases...: expected {entry}",
        f"31: default: expected a storage or an alias ({names}, twice, one, ..), found 'nobody'",
        "33: mount.file_mode: expected permission bits in base eight, like 0644, found 'rw'",
        "34: mount.scratch: expected a list of texts",
        "35: mount.read_only: expected yes or no, found '1'",
        "36: mount.spool_size: expected a size like 512MiB, found '12 parsecs'",
        "37: mount.deadline: expected a duration above zero, found '0'",
        "38: mount.uid: expected the number of a user, or the name of one of this machine's, found ''",
        f"39: python_path: expected directories, {str(tmp_path / 'missing')!r} is none",
        "40: log_level: expected DEBUG, INFO, WARNING or ERROR, found 'loud'",
    ]


@pytest.mark.parametrize(
    ("backend", "cause"),
    [("no.such.Storage", "No module named 'no'"), ("broken_storage.Storage", "SyntaxError"), ("Storage", "Storage")],
)
def test_a_class_that_cannot_be_imported_is_named_with_the_cause(tmp_path: Path, backend: str, cause: str) -> None:
    path = write(tmp_path, f"python_path: lib\nstorages:\n  a:\n    backend: {backend}\n")
    (line,) = mistakes(path)
    assert line.startswith(f"4: storages.a.backend: cannot import {backend}: ")
    assert cause in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1: storages: expected at least one storage"]),
        ("- a", ["1: expected keys with values", "1: storages: expected at least one storage"]),
        ("storages:", ["1: storages: expected at least one storage"]),
        ("storages: {a: {storage_path: !env HOME}}", ["1: storages.a.storage_path: expected plain YAML"]),
        ("\nstorages: {a: [}", ["2: expected YAML"]),
        ("storages: \x00", ["1: expected YAML"]),
        ("storages: " + "[" * 3000, ["1: expected YAML"]),
        ("storages: {a: {storage_path: 5}}", ["1: storages.a.storage_path: expected text, found a number"]),
        ("storages: {a: {storage_path: ''}}", ["1: storages.a.storage_path: expected a path"]),
        ('storages: {a: {storage_path: "a\\0b"}}', ["1: storages.a.storage_path: expected a path"]),
        (
            "storages: {a: {storage_path: !!bool maybe}}",
            ["1: storages.a.storage_path: expected plain YAML: a value is not of the type that it is written as"],
        ),
        ("storages: {a: {storage_path: !!int ''}}", ["1: storages.a.storage_path: expected plain YAML: a value is"]),
        ("storages: {a: {storage_path: x}}\nmount: {read_only: !!bool maybe}", ["2: mount.read_only: expected yes or"]),
    ],
)
def test_a_file_of_another_kind_is_a_mistake_too(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = mistakes(write(tmp_path, text))
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.yaml: cannot be read: No such file"):
        load(str(tmp_path / "nothing.yaml"))


def test_the_file_is_the_given_one_then_the_environments_then_the_one_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEPOTFS_CONFIG", raising=False)
    assert find_config(None) is None
    write(tmp_path, "")
    assert find_config(None) == "depotfs.yaml"
    monkeypatch.setenv("DEPOTFS_CONFIG", "/etc/one.yaml")
    assert find_config(None) == "/etc/one.yaml"
    assert find_config("other.yaml") == "other.yaml"
    monkeypatch.delenv("DEPOTFS_CONFIG")
    (tmp_path / "depotfs.yaml").unlink()
    (tmp_path / "depotfs.yaml").symlink_to("gone.yaml")
    assert find_config(None) == "depotfs.yaml", "which cannot be read, and so is told"


def test_the_example_has_no_mistakes_and_shows_every_key() -> None:
    example = Path(__file__).parents[2] / "depotfs.yaml.example"
    settings = load(str(example))
    assert len(settings.storages) >= 4
    text = example.read_text()
    keys = {*MountSettings.__dataclass_fields__, "allow_other", "spool", "spool_size", "cache_size"}
    top = {"storages", "aliases", "default", "mount", "python_path", "log_level"}
    assert {key for key in keys | top if f"{key}:" not in text} == set()


def test_no_message_shows_a_secret(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
storages:
  a:
    backend: depotfs.io.boto3.S3Storage
    access_key_id: 271828
    secret_access_key: 271828
    session_token: !vault 271828
    create_bucket: "271828"
    profile_name: [271828]
""",
    )
    assert mistakes(path) == [
        "5: storages.a.access_key_id: expected text, found a number",
        "6: storages.a.secret_access_key: expected text, found a number",
        "7: storages.a.session_token: expected plain YAML: could not determine a constructor for the tag '!vault'",
        "8: storages.a.create_bucket: expected yes or no, found text",
        "9: storages.a.profile_name: expected text, found a list",
    ]


def test_credentials_are_a_path_or_what_is_in_the_file(tmp_path: Path) -> None:
    key = json.dumps({"type": "service_account", "private_key": "secret"})
    (tmp_path / "key.json").write_text(key)
    text = "storages: {a: {backend: depotfs.io.gcs.GCSStorage, bucket: b, credentials: %s}}"
    for given, wanted in ((f"'{key}'", key), (f"' {key}'", " " + key), ("key.json", str(tmp_path / "key.json"))):
        [storage] = load(write(tmp_path, text % given)).storages
        assert storage.options["credentials"] == wanted
    told = f"which cannot be read: {os.strerror(errno.ENOENT)}"
    missing = tmp_path / "none.json"
    assert mistakes(write(tmp_path, text % "none.json")) == [
        f"1: storages.a.credentials: GCS credentials names {missing}, {told}"
    ]
    [told] = mistakes(write(tmp_path, text % "'{secret'"))
    assert "secret" not in told


def test_a_reference_that_nothing_replaces_is_not_taken_as_it_stands(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
storages:
  a:
    backend: own_storages.Plain
    bucket: ${BUCKET}
    extra: {list: [1, 'x${file:secret}']}
  b:
    storage_path: ${HOME
python_path: lib
mount: {spool: '${STATE}', scratch: ['.*', '${X}'], uid: '$5{'}
default: ${NAME}
""",
    )
    wrong = "${…} is not replaced by anything: write the value itself"
    assert [line for line in mistakes(path) if "expected" not in line] == [
        f"5: storages.a.bucket: {wrong}",
        f"6: storages.a.extra: {wrong}",
        f"8: storages.b.storage_path: {wrong}",
        f"10: mount.scratch: {wrong}",
        f"10: mount.spool: {wrong}",
        f"11: default: {wrong}",
    ]


def test_two_storages_are_not_on_one_place(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    path = write(
        tmp_path,
        """
storages:
  a: {storage_path: files}
  b: {storage_path: link/files}
  c: {backend: own_storages.Plain, bucket: b}
  d: {backend: own_storages.Plain, bucket: c}
  e: {backend: own_storages.Plain, bucket: c, mount: {read_only: yes}}
  f: {backend: depotfs.io.memory.MemoryFileStorage}
  g: {backend: depotfs.io.memory.MemoryFileStorage}
python_path: lib
""",
    )
    assert mistakes(path) == [
        "4: storages.b: the same place as storages.a in line 3; an alias gives it another name",
        "7: storages.e: the same place as storages.d in line 6; an alias gives it another name",
    ]
