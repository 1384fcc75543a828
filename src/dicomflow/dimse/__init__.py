"""The DIMSE protocol without I/O: bytes in, events and bytes out. Knows no sockets, threads, files or clocks."""
