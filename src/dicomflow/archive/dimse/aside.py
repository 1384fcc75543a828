"""What an operation waits for, in a thread beside its association's, so that a C-CANCEL is heard meanwhile.

A catalog, an origin that is asked again, a destination that does not answer: each may take a minute. Steps run one
after the other, and what lets go of their things behind them.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

__all__ = ["TURN_SECONDS", "Aside"]

TURN_SECONDS: Final = 0.1
"""How long an association waits for a step before its requestor is heard again."""


class Aside:
    """The steps of one operation, until `leave`. Thread: the association's."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="operation")
        self._step: Future[None] | None = None
        self._has_left = False

    @property
    def is_busy(self) -> bool:
        """Whether a step is under way, or has ended and was not waited for."""
        return self._step is not None

    def start(self, step: Callable[[], None]) -> None:
        """Begin a step, unless one is under way."""
        if self._step is None:
            self._step = self._executor.submit(step)

    def has_taken(self, step: Callable[[], None]) -> bool:
        """Wait a turn for the step under way, or for this one; tell whether it has ended, with its error if it has."""
        self.start(step)
        under_way = self._step
        assert under_way is not None
        if not wait([under_way], TURN_SECONDS).done:
            return False
        self._step = None
        under_way.result()
        return True

    def leave(self, let_go: Callable[[], None]) -> None:
        """Take no more steps; what lets go of their things runs when the one under way has ended."""
        if not self._has_left:
            self._has_left = True
            self._executor.submit(let_go)
            self._executor.shutdown(wait=False)
