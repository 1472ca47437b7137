"""Fixtures of all tests: the servers; and what the summary says of tests that did not run."""

import importlib.util
from collections import Counter

import pytest

pytest_plugins = [
    name for name in ("tests.servers.mongod", "tests.servers.s3", "tests.servers.gcs") if importlib.util.find_spec(name)
]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each reason of skips: hundreds of tests may lack the same server."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")
