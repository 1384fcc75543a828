"""Faults to order: what a test or an operator wants to go wrong, and how often."""

import threading
from dataclasses import dataclass
from typing import Final

__all__ = ["CALL_FAULTS", "OUTPUT_FAULTS", "Fault", "Faults", "FileFault"]

# "before": nothing happens but the error. The effect takes place, and "after": the answer is lost in a 500; "cut": the
# connection ends in the middle of it.
CALL_FAULTS: Final = ("before", "after", "cut")
# What a job leaves: no manifest or half of it; no lists or half of each, which ends within a line; unknown members.
OUTPUT_FAULTS: Final = ("no_manifest", "cut_manifest", "no_lists", "cut_lists", "unknown_members")


@dataclass(slots=True)
class Fault:
    """A call that fails `count` times; `operation` is a name of the model, or `*`."""

    operation: str
    error: str = "InternalServerException"
    when: str = "before"
    count: int = 1


@dataclass(frozen=True, slots=True)
class FileFault:
    """What happens to input files whose key ends in `suffix`.

    `kind`: `customer` and `server` fail the file with `text`; `warning` warns with `code`; `non_primary` puts it in
    a non-primary image set.
    """

    suffix: str
    kind: str
    text: str = "simulated"
    code: int = 47513


class Faults:
    """The faults in force. Thread: any; one lock guards them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Fault] = []
        self._files: list[FileFault] = []
        self._stuck_jobs = 0
        self._failed_jobs: list[str] = []
        self._outputs: list[str] = []

    def fail_calls(
        self, operation: str, error: str = "InternalServerException", when: str = "before", count: int = 1
    ) -> None:
        """Let the next `count` calls of an operation fail."""
        with self._lock:
            self._calls.append(Fault(operation, error, when, count))

    def fail_files(self, fault: FileFault) -> None:
        """Apply a fault to input files from now on."""
        with self._lock:
            self._files.append(fault)

    def stick_jobs(self, count: int = 1) -> None:
        """Let the next `count` jobs stay IN_PROGRESS for ever."""
        with self._lock:
            self._stuck_jobs += count

    def fail_jobs(self, message: str, count: int = 1) -> None:
        """Let the next `count` jobs end FAILED with the message."""
        with self._lock:
            self._failed_jobs += [message] * count

    def spoil_outputs(self, kind: str, count: int = 1) -> None:
        """Let the next `count` jobs that end leave an output with one of `OUTPUT_FAULTS`.

        Raises:
            ValueError: there is no such fault.
        """
        if kind not in OUTPUT_FAULTS:
            raise ValueError(f"{kind!r} is not one of {', '.join(OUTPUT_FAULTS)}")
        with self._lock:
            self._outputs += [kind] * count

    def clear(self) -> None:
        """Let everything succeed again."""
        with self._lock:
            self._calls.clear()
            self._files.clear()
            self._stuck_jobs = 0
            self._failed_jobs.clear()
            self._outputs.clear()

    def take_call(self, operation: str, when: str) -> str | None:
        """Return the error this call shall answer, and count it."""
        with self._lock:
            for fault in self._calls:
                if fault.when == when and fault.operation in {operation, "*"} and fault.count > 0:
                    fault.count -= 1
                    return fault.error
        return None

    def take_stuck_job(self) -> bool:
        """Return whether the job at hand shall hang, and count it."""
        with self._lock:
            taken = self._stuck_jobs > 0
            self._stuck_jobs -= taken
            return taken

    def take_failed_job(self) -> str | None:
        """Return the message the job at hand shall fail with, and count it."""
        with self._lock:
            return self._failed_jobs.pop(0) if self._failed_jobs else None

    def take_output(self) -> str | None:
        """Return the fault of the output at hand, and count it."""
        with self._lock:
            return self._outputs.pop(0) if self._outputs else None

    def of_file(self, key: str) -> FileFault | None:
        """Return the fault of an input file."""
        with self._lock:
            return next((fault for fault in self._files if key.endswith(fault.suffix)), None)
