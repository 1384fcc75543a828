"""What the console of a deployed stack and its function say to each other beside the request: names that both know."""

from typing import Final

__all__ = ["CALLER", "HOSTS", "PART_CHARACTERS", "USER_HEADER"]

PART_CHARACTERS: Final = 5_000_000
"""Of a body in base64, a multiple of four; Lambda's limit is 6 MB with the headers."""
USER_HEADER: Final = "x-dicomflow-user"
CALLER: Final = "127.0.0.1"
"""The address from which the header is believed: the function is called by IAM's leave alone."""
HOSTS: Final = ("localhost", "127.0.0.1")
