"""DIMSE over TCP: listeners, associations, TLS, and who may ask. Knows services by an interface, and no spool."""
