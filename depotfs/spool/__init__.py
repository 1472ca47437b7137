"""Dirty files and their journal: what was acknowledged and is not yet in its storage."""

from depotfs.spool.file import SpoolFile
from depotfs.spool.spool import Spool, SpoolStatistics
from depotfs.spool.state import State
from depotfs.spool.target import Target

__all__ = ["Spool", "SpoolFile", "SpoolStatistics", "State", "Target"]
