"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = object  # argparse does not name it in public


T = TypeVar("T")


def typed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """For argparse's `type`: what `parse` expected is said, not its name."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected {error}, found {text!r}") from None

    return convert


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds `--config FILE`."""
    text = "the configuration; otherwise $DEPOTFS_CONFIG, else ./depotfs.yaml if there is one"
    parser.add_argument("--config", metavar="FILE", help=text)
