"""The storage backends and the contract that they keep (`depotfs.io.interfaces`)."""
