"""Sends each destination its share of what routes decided: a queue, a backoff and a limit of its own."""
