"""A HealthImaging that runs here: medical-imaging's HTTP API for an unmodified boto3 client."""
