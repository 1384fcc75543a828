"""AWS HealthImaging: client, job results and a simulator."""
