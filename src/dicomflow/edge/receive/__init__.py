"""From a C-STORE request to its answer: the worker process, its services, and when there is no room."""
