"""Fixtures of all tests: the servers."""

import importlib.util

pytest_plugins = [
    name for name in ("tests.servers.mongod", "tests.servers.s3", "tests.servers.gcs") if importlib.util.find_spec(name)
]
