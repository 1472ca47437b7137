"""Where messages go and how they look there."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import logging, sys
from depotfs.daemon import logs
logs.set_up("INFO", sys.argv[1] if sys.argv[1:] else None, secrets=["hush-hush", "hush-hush-1"])
log = logging.getLogger("depotfs.part")
log.debug("hidden")
log.info("first\\r\\n  second")
logging.getLogger("boto3").info("hidden too")
logging.getLogger("boto3").warning("shown")
log.info("\\x1b[31m %s of %s", "na\\u2028me\\udc80 \\u00e9", "hush-hush-1\\n")
try:
    raise KeyError("hush-hush")
except KeyError:
    log.exception("lost\\n")
"""


def run(stderr: Path, *arguments: str, journal: bool = False) -> str:
    """What the messages look like on stderr."""
    environment = {key: value for key, value in os.environ.items() if key != "JOURNAL_STREAM"}
    with stderr.open("w+") as file:
        found = os.fstat(file.fileno())
        if journal:
            environment["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
        subprocess.run([sys.executable, "-c", CODE, *arguments], stderr=file, env=environment, check=True)
        return stderr.read_text()


def test_each_message_is_a_line_with_time_and_level_and_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    lines = run(tmp_path / "stderr").splitlines()
    assert [line[24:] for line in lines[:4]] == [
        "INFO first second",
        "WARNING shown",
        "INFO \\x1b[31m na me\\udc80 é of ***",
        "ERROR lost",
    ]
    assert all(line.startswith("20") for line in lines[:4])
    assert lines[4] == "Traceback (most recent call last):"
    assert lines[-1] == "KeyError: '***'"


def test_in_the_journal_each_line_has_its_priority(tmp_path: Path) -> None:
    lines = run(tmp_path / "stderr", journal=True).splitlines()
    assert lines[:2] == ["<6>first second", "<4>shown"]
    assert lines[3:5] == ["<3>lost", "<3>Traceback (most recent call last):"]
    assert all(line.startswith("<3>") for line in lines[3:])


def test_in_a_file_they_are_added_to_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "new" / "log"
    assert run(tmp_path / "stderr", str(file), journal=True) == ""
    assert run(tmp_path / "stderr", str(file)) == ""
    assert file.read_text().count(" INFO first second\n") == 2
