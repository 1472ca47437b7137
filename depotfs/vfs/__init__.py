"""The mounted tree: names, nodes, handles, and what each system call does to the storages."""
