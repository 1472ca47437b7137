"""Some hundred seeds, each the same at each run. A process of its own: the order of sets is part of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.simulation.content import Sparse, of_bytes, of_file
from tests.simulation.plan import FEATURES, Case, case
from tests.simulation.run import run

_SEEDS = ("--from", "3120", "--seeds", "300")


def test_nothing_is_lost() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--settled", *_SEEDS]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr


def test_a_run_is_the_same_each_time() -> None:
    """But for the moments of crashes, which count steps of a real file system."""
    for seed in range(5):
        assert Case.load(case(seed).dump()) == case(seed)
        again = Case.load(case(seed, set(FEATURES) - {"crash", "power", "bad disk", "no room"}).dump())
        assert run(again).lines == run(again).lines


def test_a_feature_that_is_left_out_changes_no_operation_but_its_own() -> None:
    for seed in range(50):
        whole = {operation.number: operation for operation in case(seed).operations}
        part = case(seed, set(FEATURES) - {"lost", "denied"}).operations
        assert all(whole[operation.number] == operation for operation in part)


def test_sparse_contents_are_as_bytes(tmp_path: Path) -> None:
    content, data = Sparse(), bytearray()
    for offset, piece in [(3, b"abc"), (0, b"xy"), (5000, b"end"), (4, b"\0\0"), (2, b"middle" * 1000)]:
        content = content.write(offset, piece)
        data.extend(bytes(max(0, offset + len(piece) - len(data))))
        data[offset : offset + len(piece)] = piece
        assert content == of_bytes(bytes(data))
        assert content.read(1, 4998) == bytes(data[1:4999])
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("r+b") as file:
        file.truncate(1 << 20)
        assert of_file(file.fileno(), 1 << 20) == content.truncate(1 << 20)
