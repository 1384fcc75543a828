"""The edge daemon: sockets, processes, spool, deliveries, upload. Knows no catalog and no HealthImaging."""
