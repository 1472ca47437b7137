"""The kernel's side: unpack a request, make one call, pack the answer. The only part that imports pyfuse3."""
