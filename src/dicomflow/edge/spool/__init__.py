"""What is acknowledged and not yet stored, on disk: segments and files, durable names, and who may look."""
