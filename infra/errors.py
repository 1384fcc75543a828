"""What stops a synthesis."""

__all__ = ["ConfigError"]


class ConfigError(Exception):
    """The deployment cannot be as config.py describes it; the text says what to change."""
