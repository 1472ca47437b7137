"""Blocks of content, kept in memory by (content, block index)."""

from depotfs.cache.blocks import BlockCache, CacheStatistics
from depotfs.cache.readahead import PIECE
from depotfs.cache.source import Arrived, Source

__all__ = ["PIECE", "Arrived", "BlockCache", "CacheStatistics", "Source"]
