"""From the spool to the object store: instances gathered to deliveries, put, and their manifest last."""
