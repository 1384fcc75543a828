"""What a check finds, and how checks are run: one that fails stops no other."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from dicomflow.edge.spool.durable import is_full
from dicomflow.errors import DicomflowError

__all__ = ["SELF_TEST", "SPACE_ADVICE", "Check", "Finding", "Problem", "Skip", "State", "Warn", "run_checks"]


SELF_TEST: Final = "DIMSE self-test"
"""The check that starts an edge, which takes seconds; an operator may leave it out."""


SPACE_ADVICE: Final = "free space on the volume"


class State(Enum):
    """How a finding is to be taken."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `advice` says what to do, and is empty only where nothing is."""

    name: str
    state: State
    text: str
    advice: str = ""


class Problem(Exception):  # noqa: N818  # it is what a check has found, no error of the program
    """What a check looked for is not as it must be."""

    state = State.FAILED

    def __init__(self, text: str, advice: str) -> None:
        super().__init__(text)
        self.advice = advice


class Warn(Problem):
    """It works, and an operator should know something."""

    state = State.WARNING


class Skip(Problem):
    """It could not be looked at."""

    state = State.SKIPPED


@dataclass(frozen=True, slots=True)
class Check:
    """A check: its name, what it does, and what to do when it fails in a way that it does not know."""

    name: str
    look: Callable[[], str]
    advice: str


def run_checks(checks: Iterable[Check]) -> Iterator[Finding]:
    """Run checks one after the other and yield what each found."""
    for check in checks:
        try:
            yield Finding(check.name, State.OK, check.look())
        except Problem as problem:
            yield Finding(check.name, problem.state, str(problem), problem.advice)
        except DicomflowError as error:
            yield Finding(check.name, State.FAILED, " ".join(str(error).split()), check.advice)
        except OSError as error:
            advice = SPACE_ADVICE if is_full(error) else check.advice
            yield Finding(check.name, State.FAILED, error.strerror or type(error).__name__, advice)
        except Exception as error:  # noqa: BLE001  # a check's boundary: the libraries have errors of their own
            text = str(error).strip().splitlines()[0] if str(error).strip() else ""
            yield Finding(check.name, State.FAILED, f"{type(error).__name__} {text}".strip(), check.advice)
