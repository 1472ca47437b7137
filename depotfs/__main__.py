"""`python -m depotfs` is the command `depotfs`."""

from depotfs.cli import main

raise SystemExit(main())
