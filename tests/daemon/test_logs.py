"""Where messages go and how they look there."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import logging, sys
from depotfs.daemon import logs
logs.set_up("INFO", sys.argv[1] if sys.argv[1:] else None)
log = logging.getLogger("depotfs.part")
log.debug("hidden")
log.info("first\\nsecond")
logging.getLogger("boto3").info("hidden too")
logging.getLogger("boto3").warning("shown")
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


def test_on_stderr_they_have_time_and_level(tmp_path: Path) -> None:
    lines = run(tmp_path / "stderr").splitlines()
    assert lines[0].endswith(" INFO first")
    assert lines[0][:2] == "20"
    assert lines[1] == "second"
    assert lines[2].endswith(" WARNING shown")
    assert len(lines) == 3


def test_in_the_journal_each_line_has_its_priority(tmp_path: Path) -> None:
    assert run(tmp_path / "stderr", journal=True) == "<6>first\n<6>second\n<4>shown\n"


def test_in_a_file_they_are_added_to_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "new" / "log"
    assert run(tmp_path / "stderr", str(file), journal=True) == ""
    assert run(tmp_path / "stderr", str(file)) == ""
    assert file.read_text().count(" INFO first\nsecond\n") == 2
