"""A mount of its own daemon for a test: started, watched, stopped or killed, and never left behind."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from depotfs.daemon.exits import Exit
from tests.servers.process import missing

READY_SECONDS = 30
"""Until a mount answers; a loaded machine with two cores needs some."""
STOP_SECONDS = 60
"""Until a daemon that was told to end has stored everything."""
HANG_SECONDS = 180
"""Until a test is taken to hang; ten thousand files take more than 60 s on a machine that has much else to do."""
_WATCHER = """
sleep "$1"
for process in /proc/[0-9]*; do
    tr "\\0" " " < "$process/cmdline" | grep -qF -- "-m depotfs mount --config $2" && kill -9 "${process#/proc/}"
done
"""
"""After so many seconds the daemons with that configuration die, by which all their callers get errors."""
_COMPLAINT = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|Traceback|Exception ignored")


class Mount:
    """`depotfs mount` as a child process over the given storages.

    Args:
        directory: of the test's own; gets the mountpoint, the configuration, the spool and the log.
        storages: name → what stands under it in depotfs.yaml.
        expected: patterns of lines in the log that may be warnings; any other one fails the test at `stop`.
        options: what else stands at the top of depotfs.yaml; `mount` is merged with where the spool is.
    """

    def __init__(
        self,
        directory: Path,
        storages: Mapping[str, Mapping[str, Any]],
        *,
        expected: Sequence[str] = (),
        **options: Any,
    ) -> None:
        if not os.path.exists("/dev/fuse"):
            missing("/dev/fuse")
        self.directory = directory
        self.path = directory / "mnt"
        self.config = directory / "depotfs.yaml"
        self.spool = directory / "spool"
        self.expected = list(expected)
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.path.mkdir()
        self.configure({"storages": dict(storages), **options})

    def configure(self, configuration: Mapping[str, Any]) -> None:
        """The configuration file says this from now on; where the spool is, is added."""
        mount = {"spool": str(self.spool), **configuration.get("mount", {})}
        self.config.write_text(yaml.safe_dump({**configuration, "mount": mount}, allow_unicode=True, sort_keys=False))

    # --- life ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Mount:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None and self.running:
                self.stop()
        finally:
            self.destroy()

    def start(self) -> None:
        """The mount answers. Fails with the log if the daemon ends before or takes too long."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command("mount", "--config", self.config, self.path),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.directory,
                env=self.environment,
                preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),  # which nohup(1) ignores
            )
        if not self._is_ready():
            self.destroy()
            pytest.fail(f"the mount does not answer within {READY_SECONDS} s:\n{self.log_text()}")

    def _is_ready(self) -> bool:
        """The first line on stdout is there, and the mountpoint is a mount."""
        assert self._process is not None
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], READY_SECONDS)
        return bool(readable) and bool(self._process.stdout.readline()) and os.path.ismount(self.path)

    def stop(self, *, code: int | None = 0, check_log: bool = True) -> None:
        """SIGTERM: everything is stored, the mount is gone, the daemon has ended with that code and a clean log.

        Args:
            code: None where either outcome is right: all stored, or some bytes kept in the spool.
        """
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self.wait(code=code, check_log=check_log)

    def wait(
        self,
        *,
        code: int | None = 0,
        check_log: bool = True,
        mounted: bool = False,
        seconds: float = STOP_SECONDS,
    ) -> None:
        """The daemon, told to end, has ended as it should; `mounted`: and left its mount behind."""
        assert self._process is not None
        try:
            ended = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the daemon does not end within {seconds} s:\n{self.log_text()}")
        right = ended in (Exit.OK, Exit.BYTES_KEPT) if code is None else ended == code
        assert right, f"the daemon ended with {ended} instead of {code}:\n{self.log_text()}"
        assert (self.connection() is not None) == mounted
        if check_log:
            self.check_log()

    def kill(self) -> None:
        """The daemon ends at this very instant (SIGKILL); then the dead mount is detached."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.detach()

    def remount(self) -> None:
        """Stopped, and started again with the configuration as it is now."""
        self.stop()
        self.start()

    def destroy(self) -> None:
        """Nothing of it runs or is mounted; callers that hang in it get an error. For every outcome of a test."""
        if self._process is not None:
            if self._process.poll() is None:
                self.abort()
                self._process.kill()
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
        self.detach()

    def detach(self) -> None:
        """Nothing is mounted there."""
        while self.connection() is not None:
            subprocess.run(["umount", "-l", "-i", self.path], check=True, capture_output=True)

    def abort(self) -> None:
        """Every call that waits for the daemon, and every later one, fails (fuse(4), fusectl)."""
        number = self.connection()
        if number is None:
            return
        with tempfile.TemporaryDirectory() as control:
            mounted = subprocess.run(["mount", "-t", "fusectl", "fusectl", control], check=False, capture_output=True)
            if mounted.returncode:
                return
            try:
                with contextlib.suppress(OSError):
                    Path(control, str(number), "abort").write_text("1")
            finally:
                subprocess.run(["umount", control], check=True)

    def connection(self) -> int | None:
        """The kernel's number of the connection behind the mountpoint, None where none is mounted."""
        found = None
        for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
            fields = line.split(" ")
            if fields[4] == str(self.path):
                found = int(fields[2].partition(":")[2])
        return found

    @contextlib.contextmanager
    def watched(self, seconds: float = HANG_SECONDS) -> Iterator[None]:
        """A block that hangs in the mount fails after that time instead of hanging the whole run.

        The watcher is a process of its own: who waits for a page of a mapped file holds up all threads of Python.
        """
        watcher = subprocess.Popen(
            ["sh", "-c", _WATCHER, "watcher", str(seconds), str(self.config)],
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(watcher.pid, signal.SIGKILL)
            watcher.wait()

    # --- what is known of it ---------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of the daemon."""
        return self.process.pid

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The daemon."""
        assert self._process is not None
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def environment(self) -> dict[str, str]:
        """Of commands that concern this mount: its records are not those of the machine."""
        runtime = self.directory / "run"
        runtime.mkdir(exist_ok=True)
        state = {"RUNTIME_DIRECTORY": str(runtime), "STATE_DIRECTORY": str(self.directory / "state")}
        return {**os.environ, **state, "PYTHONWARNINGS": "default::ResourceWarning"}

    @staticmethod
    def command(*arguments: str | Path) -> list[str]:
        """`depotfs …` with the interpreter of the tests."""
        return [sys.executable, "-m", "depotfs", *(str(argument) for argument in arguments)]

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """What a `depotfs` command answers that is run in the mount's directory."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=STOP_SECONDS,
            env=self.environment,
            cwd=self.directory,
            check=False,
        )

    def log_text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def check_log(self, start: int = 0) -> None:
        """No warning, error or traceback that was not expected, from that position of the log on."""
        unannounced = [
            line
            for line in self.log_text()[start:].splitlines()
            if _COMPLAINT.search(line) and not any(re.search(pattern, line) for pattern in self.expected)
        ]
        assert not unannounced, "unannounced in the log:\n" + "\n".join(unannounced) + "\n\n" + self.log_text()[-6000:]

    def wait_log(self, pattern: str, seconds: float = 30) -> None:
        """A line that matches is in the log."""
        self.wait_until(lambda: re.search(pattern, self.log_text()) is not None, f"{pattern!r} in the log", seconds)

    def wait_until(self, condition: Any, what: str, seconds: float = 30) -> None:
        """The condition holds; fails with the log if it does not come to hold in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"no {what} within {seconds} s:\n{self.log_text()[-4000:]}")
            time.sleep(0.02)

    def peak_memory(self) -> int:
        """Bytes of resident memory that the daemon has had at most (proc(5), VmHWM)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024
