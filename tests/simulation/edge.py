"""The edge half in a box: the real spool, gather, queue, uploader, ledger, deliverer and commitment, with deaths."""

import asyncio
import gc
import hashlib
import os
import random
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any
from unittest.mock import patch

from obstore.exceptions import GenericError

from tests.simulation import edge_seams as seams
from tests.simulation.box import START, Box, Died
from tests.simulation.disk import Disk, Process, close_under
from tests.simulation.loop import Loop
from tests.simulation.objects import CT, encode
from tests.simulation.plan import Act, Plan
from tests.simulation.power import Memory
from tests.simulation.store import Bucket

CALM = timedelta(minutes=40)
"""Within this after the storm the spool is empty: the longest pause is a minute, a delivery closes after fifteen."""
_LEAST_CALM_SECONDS = 180.0
_LEDGER = ("ledger.db", "ledger.db-wal", "ledger.db-shm")


@dataclass
class Answered:
    """An instance that was answered 0000."""

    at: float
    sop: str
    sha256: str


@dataclass
class EdgeBooks:
    """What modalities were answered, and what they asked."""

    answered: list[Answered] = field(default_factory=list)
    known: list[tuple[str, bytes]] = field(default_factory=list)
    rotten: Counter[str] = field(default_factory=Counter)
    """How many copies of a content have rotted in the spool."""
    odd: set[str] = field(default_factory=set)
    moved_at: list[float] = field(default_factory=list)
    reports: list[tuple[float, Any, Bucket, Any]] = field(default_factory=list)
    """When it was asked and told, of which bucket, and the report."""
    kinds: set[str] = field(default_factory=set)


class EdgeStore:
    """The line to a bucket: it takes time, fails before or after its effect, and ends with the process."""

    def __init__(self, edge: "Edge", bucket: Bucket) -> None:
        self._edge, self._bucket = edge, bucket

    async def _wait(self, rate: float) -> None:
        await asyncio.sleep(-seams.log(1 - self._edge.box.draw("line")) / rate)
        if self._edge.deliverer.is_dead:
            raise Died

    async def put_async(self, key: str, content: Any, **_options: object) -> None:
        """Store an object."""
        box = self._edge.box
        await self._wait(20)
        if self._edge.is_store_down() or box.chance("edge_store_error"):
            raise GenericError("simulated: no answer")
        content = content.read() if hasattr(content, "read") else bytes(content)
        with self._edge.disk.of(None):
            self._bucket.put(key, content)
        box.note(f"stored {key}")
        await self._wait(50)
        if box.chance("edge_store_after"):
            if box.chance("rot_after"):
                with self._edge.disk.of(None):
                    self._edge.rot_content(hashlib.sha256(content).hexdigest())
            raise GenericError("simulated: done, and not told")

    async def head_async(self, key: str) -> dict[str, Any]:
        """Return what is known of an object."""
        if self._edge.is_store_down():
            raise GenericError("simulated: no answer")
        return self._bucket.head(key)

    async def get_async(self, key: str, **_options: object) -> Any:
        """Return an object."""
        if self._edge.is_store_down():
            raise GenericError("simulated: no answer")
        return self._bucket.get(key)


class Edge:
    """One seed's edge: its receiver and its deliverer die and start, its store changes, its modalities send again."""

    def __init__(self, plan: Plan, box: Box, folder: Path, bucket: Bucket) -> None:
        self.plan, self.box, self.root = plan, box, folder / "spool"
        self.books, self.disk = EdgeBooks(), Disk(box)
        self.buckets = [bucket]
        self.deliverer, self.receiver = Process("deliverer"), Process("receiver")
        self.lane: Any = None
        self.name, self.number, self.lives, self.is_moving, self.is_off = "edge", 0, 0, False, False
        self.down_until, self.error = -1.0, None
        self.ended: str | None = None
        self.poll_seconds = 4.0
        self.settings: Any = None
        self.announced: list[str] | None = [] if plan.settings["segment_bytes"] else None

    def is_store_down(self) -> bool:
        """Tell whether the store is away."""
        return self.box.is_storm and self.box.seconds < self.down_until

    @property
    def bucket(self) -> Bucket:
        """The bucket that is configured now."""
        return self.buckets[-1]

    # What modalities and the world do.
    def act(self, act: Act) -> None:
        """Do what the plan has now."""
        self.books.kinds.add(act.kind)
        self.box.counts[f"act {act.kind}"] += 1
        with self.disk.of(None):
            getattr(self, f"act_{act.kind}")(act.rng(self.plan.seed))

    def act_deliver(self, rng: random.Random) -> None:
        """Send some images of a study."""
        study, association = rng.randrange(1, 6), f"{rng.randrange(16):032x}"
        for _ in range(rng.choice((1, 2, 5))):
            sop = f"1.2.{study}.1.{self.number}"
            if self.books.known and rng.random() < 0.1:  # other bytes under a UID that is in use
                sop = rng.choice(self.books.known)[0]
            self.send(rng, sop, association)
        if rng.random() < 0.3:  # as many modalities do, before they delete
            asked = [sop for sop, _ in self.books.known[-2:]]
            self.box.at(rng.choice((0.01, 1, 30)), partial(self.ask, asked))

    def send(self, rng: random.Random, sop: str, association: str = "0" * 32) -> None:
        """Send an image, of new bytes."""
        study = sop.split(".")[2]
        uids = {(8, 0x16): CT, (8, 0x18): sop, (0x20, 0xD): f"1.2.{study}", (0x20, 0xE): f"1.2.{study}.1"}
        elements = {tag: (b"UI", uid.encode()) for tag, uid in uids.items()}
        elements[0x7FE0, 0x10] = (b"OW", rng.randbytes(rng.choice((20, 400, 70_000))))
        self.receive(sop, encode(elements), association)

    def act_resend(self, rng: random.Random) -> None:
        """Send some images again."""
        for sop, content in rng.sample(self.books.known, min(3, len(self.books.known))):
            self.receive(sop, content, f"{rng.randrange(16):032x}")

    def receive(self, sop: str, content: bytes, association: str) -> None:
        """Receive an instance as a worker does; it is answered 0000 once it is committed."""
        if self.is_off:
            return
        process, self.number, file, received = self.receiver, self.number + 1, None, None
        with self.disk.of(process):
            try:
                self.lane = self.lane or seams.Lane(
                    self.root, **{name: self.plan.settings[name] for name in ("segment_bytes", "spare_bytes")}
                )
                file = self.lane.create(association, self.number, self.lane.last_bytes)
                file = file.write([content])
                received = file.commit("10.0.0.1")
                self.lane.last_bytes = len(content)
            except OSError as error:
                self.box.note(f"A700 {sop} {error.errno}")
                with suppress(OSError):
                    if file is not None:
                        file.discard()
                return
            except Died:
                pass
        if received is None:  # its supervisor discards what it was receiving, and starts another
            self.lane = file = None
            gc.collect()
            close_under(self.root / "received" / "0")
            self.receiver = Process("receiver")
            with suppress(OSError), self.disk.of(None):
                seams.discard_incoming(seams.Spool(self.root))
            return
        if received.suffix == ".dcm":
            os.utime(received, (self.box.wall, self.box.wall))
        sha256 = hashlib.sha256(content).hexdigest()
        self.books.answered.append(Answered(self.box.seconds, sop, sha256))
        self.books.known.append((sop, content))
        self.box.note(f"0000 {sop}")

    def act_move(self, _rng: random.Random) -> None:
        """Point the edge to another bucket, and start it again."""
        self.books.moved_at.append(self.box.seconds)
        self.buckets.append(Bucket(self.box.clock))
        self.box.note("the edge has another bucket")
        self.deliverer.is_dead = True

    def act_rot(self, rng: random.Random, tries: int = 300) -> None:
        """Let a byte of a spooled file rot, once there is one, and often the same come again, whole."""
        paths = sorted(self.root.glob("delivering/*/*.dcm"))
        if not paths:
            if rng.random() < 0.5:
                self.down_until = max(self.down_until, self.box.seconds + 60)  # else it is stored before it can rot
            self.box.at(1, lambda: self.act_rot(rng, tries - 1) if tries and self.box.is_storm else None)
            return
        sha256 = self._rot(rng.choice(paths))
        for sop, whole in self.books.known:
            if hashlib.sha256(whole).hexdigest() == sha256 and rng.random() < 0.7:
                self.receive(sop, whole, f"{rng.randrange(16):032x}")
                break

    def rot_content(self, sha256: str) -> None:
        """Let the file of a content rot."""
        for path in sorted(self.root.glob(f"delivering/*/*_{sha256}.dcm")):
            self._rot(path)

    def _rot(self, path: Path) -> str:
        """Change a byte of a file; return its digest when it was whole."""
        content, status = bytearray(path.read_bytes()), path.stat()
        sha256 = path.name.rpartition("_")[2].removesuffix(".dcm")
        if hashlib.sha256(content).hexdigest() == sha256:
            self.books.rotten[sha256] += 1
        content[-5] ^= 0xFF
        path.write_bytes(content)
        os.utime(path, (status.st_mtime, status.st_mtime))
        is_stored = any(hashlib.sha256(each).hexdigest() == sha256 for each, _ in self.bucket.objects.values())
        self.box.counts["a stored file rots"] += is_stored
        self.box.note("a file rots")
        return sha256

    def act_remove(self, rng: random.Random) -> None:
        """Let an operator delete a stored image from the bucket."""
        if keys := sorted(key for key in self.bucket.objects if key.endswith(".dcm")):
            self.bucket.delete(rng.choice(keys))
            self.box.note("an object is deleted")

    def act_rename(self, rng: random.Random) -> None:
        """Give the edge another name, and start it again."""
        self.name = f"edge{rng.randrange(3)}"
        self.box.note(f"the edge is called {self.name}")
        self.deliverer.is_dead = True

    def act_full(self, rng: random.Random) -> None:
        """Let the volume be full for a while."""
        self.disk.full_until = self.box.seconds + rng.choice((5, 60, 900))
        self.box.note("the volume is full")

    def act_store_down(self, rng: random.Random) -> None:
        """Let the store be away for a while."""
        self.down_until = self.box.seconds + rng.choice((5, 60, 900))
        self.box.note("the edge's store is away")

    def act_death(self, rng: random.Random) -> None:
        """Let a process die at one of its next system calls."""
        process = rng.choice((self.deliverer, self.deliverer, self.receiver))
        process.calls_left = rng.randrange(1, 150 if process is self.deliverer else 12)

    def act_power(self, rng: random.Random) -> None:
        """Cut the host's power, and give it back a moment later."""
        self.is_off, self.lane = True, None
        self.deliverer.is_dead = self.receiver.is_dead = True
        self._power = rng
        self.box.note("the power is cut")

    def _restore_power(self) -> None:
        gc.collect()
        close_under(self.root / "received" / "0")
        lost = self.disk.memory.lose(self._power)
        self.box.counts["names lost with the power"] += lost
        if self._power.random() < 0.5:
            self.disk.memory.lose_ledger()
        self.is_off, self.receiver = False, Process("receiver")
        with suppress(OSError):
            seams.discard_incoming(seams.Spool(self.root))
        self.box.note(f"the power is back, {lost} changes of names are lost")

    def act_yesterday(self, _rng: random.Random) -> None:
        """Keep the ledger, or start with the one kept before, or with none."""
        kept = self.root.parent / "kept.db"
        if not kept.exists():
            with suppress(FileNotFoundError):
                copyfile(self.root / _LEDGER[0], kept)
            return
        self.is_moving = self.deliverer.is_dead = True
        self.box.note("the ledger of before is restored")

    def act_clock(self, rng: random.Random) -> None:
        """Let the wall clock jump, hours forward or back."""
        self.box.wall_offset += rng.choice((-3, -1, 1, 3)) * 3600
        self.box.note("the clock jumps")
        if self.books.known and rng.random() < 0.7:  # a device that is set right as well sends a corrected image
            sop, _ = rng.choice(self.books.known)
            self.down_until = max(self.down_until, self.box.seconds + rng.choice((0, 120)))
            self.send(rng, sop)
            self.box.at(rng.choice((10, 90)), partial(self.ask, [sop]))

    def act_commitment(self, rng: random.Random) -> None:
        """Ask for storage commitment of what was answered, and perhaps of what never came."""
        known = [sop for sop, _ in rng.sample(self.books.known, min(3, len(self.books.known)))]
        self.ask([*known, *(["1.2.99.9"] if rng.random() < 0.3 else [])])

    def ask(self, sops: list[str]) -> None:
        """Ask for storage commitment of some instances."""
        asked = sorted(set(sops))
        if not asked:
            return
        references = tuple(seams.Reference(CT, sop) for sop in asked)
        uid, at = f"1.2.77.{len(self.books.reports)}.{int(self.box.seconds)}", self.box.seconds
        self._report(seams.CommitmentRequest(uid, "MODALITY", "DICOMFLOW", references, self.box.wall), at)

    def _report(self, request: Any, at: float) -> None:
        def look() -> None:
            if request.references and self.settings is not None:
                report = seams.report_on(request, self.root, self.settings, EdgeStore(self, self.bucket), self.box.wall)
                if report is not None:
                    self.books.reports.append((at, self.box.now, self.bucket, report))
                    return
            if self.box.seconds < at + 7200:
                self.box.at(30, lambda: self._report(request, at))

        self.box.spawn(f"commitment {request.transaction_uid} {self.box.seconds:.0f}", look, is_spared=True)

    # Lives of the deliverer.
    async def _live(self, until: Any) -> None:
        settings = {name: self.plan.settings[name] for name in ("quiet_seconds", "concurrency")}
        self.settings = seams.EdgeSettings(
            name=self.name,
            spool=seams.SpoolSettings(dir=self.root, slow_below_bytes=0, refuse_below_bytes=0),
            delivery=seams.DeliverySettings(store_url=f"s3://bucket{len(self.buckets)}", **settings),
        )
        store = EdgeStore(self, self.bucket)
        announce = None if self.announced is None else lambda stored: self.announced.extend(each.key for each in stored)
        uploader = seams.Uploader(lambda: store, None)
        spool = seams.Spool(self.root, spare_bytes=self.plan.settings["spare_bytes"])
        deliverer = seams.Deliverer(self.settings, spool, uploader, announce)
        task = asyncio.ensure_future(deliverer.run())
        while self.box.now < until and not task.done() and not self.deliverer.is_dead:
            await asyncio.wait([task], timeout=self.poll_seconds)
            if self._is_at_rest():
                break
        is_ended = task.done() and not self.deliverer.is_dead
        self.deliverer.is_dead = True
        task.cancel()
        try:
            await task
        except BaseException as error:  # noqa: BLE001  # a death, in a group or not
            self.error = error if is_ended else None
        with suppress(Exception):
            deliverer.ledger.close()

    def _is_at_rest(self) -> bool:
        """Tell whether the storm is over and nothing is left to do: what would come is more of the same."""
        if self.box.is_storm or self.box.seconds < self.plan.seconds + _LEAST_CALM_SECONDS:
            return False
        folders = (self.root / name for name in ("delivering", "received"))
        return not any(path for folder in folders for path in folder.glob("*/*.dcm"))

    def live(self, until: Any) -> None:
        """Let deliverers live and die until then, or until all is at rest."""
        while self.box.now < until and not self._is_at_rest():
            self.lives += 1
            self.deliverer, self.error = Process("deliverer"), None
            if self.is_off:
                self._restore_power()
            if self.is_moving:
                self._restore_ledger()
            loop = Loop(self.box, lambda: self.disk.of(None))
            try:
                with self.disk.of(self.deliverer):
                    loop.run_until_complete(self._live(until))
            except BaseException as error:  # noqa: BLE001  # a death at the start
                self.error = error
            finally:
                asyncio.set_event_loop(None)
                with self.disk.of(self.deliverer):  # what collecting runs of it is done by who is dead
                    loop.forget()
                close_under(self.root / "received" / "unpacked")
            if self.error is not None and not _is_death(self.error) and not self._is_excused(self.error):
                self.box.counts["deliverer_ended"] += 1
                self.ended = repr(self.error)[:300]
            self.box.note(f"life {self.lives} of the deliverer ends")
            self.box.run_until(self.box.now + timedelta(seconds=1))

    def _is_excused(self, error: BaseException) -> bool:
        errors = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
        # Its supervisor starts it again; on a full volume it cannot begin.
        is_of_disk = all(isinstance(each, OSError) or isinstance(each.__cause__, OSError) for each in errors)
        return self.box.is_excused("end of the deliverer", self.box.is_storm and is_of_disk)

    def _restore_ledger(self) -> None:
        self.is_moving = False
        for name in _LEDGER:
            (self.root / name).unlink(missing_ok=True)
        copyfile(self.root.parent / "kept.db", self.root / _LEDGER[0])

    def heal(self) -> None:
        """End the storm."""
        self.box.is_storm = False
        self.disk.full_until = self.down_until = -1.0
        self.deliverer.calls_left = self.receiver.calls_left = None
        self.box.note("the storm is over")

    def schedule(self) -> None:
        """Put the plan's acts on the timetable."""
        for act in self.plan.acts:
            if hasattr(self, f"act_{act.kind}"):
                self.box.at(act.at, partial(self.act, act))

    @property
    def storm_ends(self) -> Any:
        """When the faults end."""
        return START + timedelta(seconds=self.plan.seconds)

    def _is_written_by_dead(self) -> bool:
        return self.disk.process is self.deliverer and self.deliverer.is_dead

    @contextmanager
    def seams(self) -> Iterator[None]:
        """Stand in the places of the edge's clock, threads, randomness and system calls."""
        new_id = lambda: uuid.UUID(int=int(self.box.draw("id") * (1 << 56)) << 64, version=4)  # noqa: E731
        with ExitStack() as stack:
            stack.enter_context(seams.edge_seams(self.box, new_id, self.poll_seconds, self._is_written_by_dead))
            stack.enter_context(self.disk.patched())
            if any(act.kind == "power" for act in self.plan.acts):
                self.root.mkdir(exist_ok=True)
                self.disk.memory = Memory(self.root, is_named_by_fsync=self.plan.settings["is_named_by_fsync"])
                stack.enter_context(seams.syncing(self.disk.memory.all_synced, settings=self.plan.settings))
            # What is collected of a dead process's coroutines raises its death once more, to nobody.
            stack.enter_context(patch.object(sys, "unraisablehook", lambda _unraisable: None))
            yield
        self.lane = None  # the process's one client of the service holds this world


def _is_death(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_death, error.exceptions))
    return isinstance(error, Died | asyncio.CancelledError)
