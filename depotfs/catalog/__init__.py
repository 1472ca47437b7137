"""What is known of each stored file, by revision; kept over restarts, may vanish."""

from depotfs.catalog.catalog import Catalog, CatalogStatistics

__all__ = ["Catalog", "CatalogStatistics"]
