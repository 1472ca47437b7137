"""Blocks of content, kept in memory by (content, block index)."""

from depotfs.cache.blocks import BlockCache, CacheStatistics
from depotfs.cache.source import Source

__all__ = ["BlockCache", "CacheStatistics", "Source"]
