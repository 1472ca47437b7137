"""A process that goes on after the command that started it, with real commands: forking is what is tested."""

import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path


def start(body: str, log: Path) -> subprocess.CompletedProcess[str]:
    """A command that puts `run(ready)` with that body into the background; returns once nobody has its output open."""
    code = f"""
import os, signal, sys
from depotfs.daemon.background import run_in_background

def run(ready):
{textwrap.indent(textwrap.dedent(body), "    ")}

sys.exit(run_in_background(run, {str(log)!r}))
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)


def test_the_command_returns_when_the_child_is_ready_and_the_child_goes_on(tmp_path: Path) -> None:
    log, pid_file = tmp_path / "log", tmp_path / "pid"
    ended = start(
        f"""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        print("before", file=sys.stderr, flush=True)
        open({str(pid_file)!r}, "w").write(str(os.getpid()))
        ready()
        print("to the log", flush=True)
        os.write(2, b"errors too")
        signal.sigwait([signal.SIGTERM])
        print(" until the end", flush=True)
        return 0
        """,
        log,
    )
    child = int(pid_file.read_text())
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "before\n")
    assert os.getsid(child) == child
    process = os.pidfd_open(child)
    os.kill(child, signal.SIGTERM)
    assert select.select([process], [], [], 30)[0]  # its end, though it is not our child
    os.close(process)
    assert log.read_text() == "to the log\nerrors too until the end\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_child_that_ends_before_it_is_ready_gives_its_code_and_its_words(tmp_path: Path) -> None:
    ended = start("print('why', file=sys.stderr); return 7", tmp_path / "log")
    assert (ended.returncode, ended.stderr) == (7, "why\n")


def test_a_child_that_is_killed_before_it_is_ready_is_a_failure(tmp_path: Path) -> None:
    assert start("os.kill(os.getpid(), signal.SIGKILL)", tmp_path / "log").returncode == 1


def test_an_exception_of_the_child_is_shown(tmp_path: Path) -> None:
    ended = start("raise RuntimeError('surprise')", tmp_path / "log")
    assert ended.returncode == 1
    assert ended.stderr.count("surprise") >= 1


def test_a_log_that_cannot_be_opened_is_a_failure_that_is_shown(tmp_path: Path) -> None:
    ended = start("ready(); return 0", tmp_path)
    assert ended.returncode == 1
    assert "IsADirectoryError" in ended.stderr
