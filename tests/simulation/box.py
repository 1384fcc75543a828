"""The box: a virtual clock, one thread of control, tasks that a seed may let die or wait at each of their calls.

What may happen is drawn from a key (seed, task, kind of chance, how often it was asked), never from one stream: a plan
that lacks a delivery leaves the chances of all others as they were, so a failing plan can be shortened.
"""

import asyncio
import hashlib
import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import greenlet

START = datetime(2026, 1, 5, 6, 0, 0, tzinfo=UTC)
_MAX_STEPS = 400_000


class Died(BaseException):
    """The process at work is gone: nothing of it may go on."""


class Task:
    """One process's piece of work: a batch of messages, an operator's command."""

    def __init__(self, key: str, *, is_spared: bool) -> None:
        self.key = key
        self.is_spared = is_spared  # the judges' own work is neither killed nor failed
        self.is_dead = self.is_over = False
        self.is_faulted = False  # something was injected into one of its calls: its failure is excused
        self.glet: greenlet.greenlet | None = None
        self.loop: object = None
        self.asked: Counter[str] = Counter()


class Box:
    """One seed's world: time, tasks, chances, and what happened."""

    def __init__(self, seed: int, chances: dict[str, float]) -> None:
        self.seed, self.chances = seed, chances
        self.now, self._heap, self._number = START, [], 0
        self.steps, self.trace, self.last = 0, hashlib.sha256(), deque(maxlen=60)
        self.marks: list[str] = []  # the trace's digest after each virtual hour, to find where two runs part
        self.counts: Counter[str] = Counter()
        self.task: Task | None = None
        self.is_storm = True
        self.wall_offset = 0.0
        self.down_until = dict.fromkeys(("store", "database", "service", "queue"), START)
        self.on_error: Callable[[Task, BaseException], None] = lambda _task, _error: None
        self.judges_errors: list[str] = []
        self._asked: Counter[str] = Counter()
        self._main = greenlet.getcurrent()

    def clock(self) -> datetime:
        """Return the virtual time."""
        return self.now

    @property
    def seconds(self) -> float:
        """The monotonic clock: seconds since the start."""
        return (self.now - START).total_seconds()

    @property
    def wall(self) -> float:
        """The wall clock of the edge, in seconds since the epoch; it may jump."""
        return self.now.timestamp() + self.wall_offset

    def note(self, text: str) -> None:
        """Keep a step in words, and in the digest of the run."""
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise AssertionError("the box does not come to rest")
        line = f"{self.now:%d %H:%M:%S.%f} {text}"
        self.trace.update(line.encode("utf-8", "surrogateescape") + b"\n")
        self.last.append(line)

    def draw(self, kind: str) -> float:
        """Return a number from 0 to 1 that depends on who asks, for what, and how often it has."""
        key, asked = (self.task.key, self.task.asked) if self.task else ("", self._asked)
        asked[kind] += 1
        digest = hashlib.blake2b(f"{self.seed} {key} {kind} {asked[kind]}".encode(), digest_size=7).digest()
        return int.from_bytes(digest, "big") / (1 << 56)

    def chance(self, kind: str) -> bool:
        """Tell whether something that may happen does; it is counted."""
        p = self.chances.get(kind, 0.0) if self.is_storm else 0.0
        is_hit = p > 0 and self.draw(kind) < p
        self.counts[kind] += is_hit
        return is_hit

    def is_excused(self, what: str, is_excused: object) -> bool:
        """Tell whether something is not held against the code, and count both: an excuse that is always there hides."""
        self.counts[f"{'excused' if is_excused else 'judged'} {what}"] += 1
        return bool(is_excused)

    def rng(self, kind: str) -> random.Random:
        """Return randomness for a choice of several draws."""
        return random.Random(self.draw(kind))

    def at(self, seconds: float, run: Callable[[], object]) -> None:
        """Run something later."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + timedelta(seconds=seconds), self._number, run))

    def run_until(self, moment: datetime) -> None:
        """Let everything happen that is due by then."""
        while self._heap and self._heap[0][0] <= moment:
            at, _, run = heapq.heappop(self._heap)
            if at.hour != self.now.hour:
                self.marks.append(self.trace.hexdigest()[:8])
            self.now = max(self.now, at)
            run()
        self.now = max(self.now, moment)

    def forget(self) -> None:
        """Drop what would come later, and with it what that holds."""
        self._heap.clear()
        self.on_error = lambda _task, _error: None

    def spawn(self, key: str, run: Callable[[], object], *, is_spared: bool = False) -> Task:
        """Begin a task; it runs until it ends or the seed has it wait."""
        task = Task(key, is_spared=is_spared)

        def body() -> None:
            try:
                run()
            except BaseException as error:  # noqa: BLE001  # a group of asyncio's may hold a death
                if task.is_dead:
                    self.note(f"{key} died")
                elif is_spared:
                    self.judges_errors.append(f"{key} raised {error!r:.300}")
                else:
                    self.note(f"{key} raised {type(error).__name__}")
                    self.on_error(task, error)
            finally:
                task.is_over = True

        task.glet = greenlet.greenlet(body, parent=self._main)
        self._resume(task)
        return task

    def _resume(self, task: Task) -> None:
        if task.is_over:
            return
        before, self.task = self.task, task
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(task.loop)
        task.glet.switch()
        asyncio._set_running_loop(loop)
        self.task = before

    def pause(self, seconds: float) -> None:
        """Let others go on; the task at work does after a while."""
        task = self.task
        if task is None:
            return
        self.at(seconds, lambda: self._resume(task))
        task.loop = asyncio._get_running_loop()
        self._main.switch()
        if task.is_dead:
            raise Died

    def point(self, what: str, *, may_wait: bool = True) -> None:
        """Be called before whatever a task asks of others: here it may die, or others may go on."""
        task = self.task
        if task is None:
            return
        if task.is_dead:
            raise Died
        self.note(f"{task.key}: {what}")
        if not task.is_spared and self.chance("death" if may_wait else "death_in_transaction"):
            task.is_dead = task.is_faulted = True
            raise Died
        if may_wait and self.chance("switch"):
            scale = (0.01, 0.3, 3.0)[int(self.draw("scale") * 3)]
            self.pause(-math.log(1 - self.draw("wait")) * scale)

    def fails(self, kind: str, side: str) -> bool:
        """Tell whether the call at hand fails: by chance, or since the other side is down."""
        task = self.task
        if task is None or task.is_spared:
            return False
        is_hit = (self.is_storm and self.now < self.down_until[side]) or self.chance(kind)
        task.is_faulted |= is_hit
        return is_hit
