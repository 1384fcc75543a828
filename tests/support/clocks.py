"""Time as a test has it."""

__all__ = ["Clock"]


class Clock:
    """Monotonic seconds that only the test moves."""

    now = 100.0

    def __call__(self) -> float:
        """Tell them."""
        return self.now
