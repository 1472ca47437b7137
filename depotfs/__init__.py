"""depotfs: stored files as files.

A storage library with filedepot's API and stored formats (`depotfs.manager`, `depotfs.io`,
`depotfs.middleware`) and a FUSE file system on top of it (`depotfs.daemon`).
"""

__version__ = "0.1.0"
