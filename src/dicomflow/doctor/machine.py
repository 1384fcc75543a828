"""Checks of the machine: folders, free space, the speed of a sync, ports, and a store that is asked to do its work."""

import contextlib
import os
import secrets
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from obstore.store import ObjectStore

from dicomflow.doctor.findings import SPACE_ADVICE, Problem, Skip, Warn
from dicomflow.edge.spool.durable import is_full, lacks_journal
from dicomflow.edge.stores import describe_refusal, is_unreachable

__all__ = [
    "check_clock",
    "check_folder",
    "check_journal",
    "check_owner",
    "check_port",
    "check_space",
    "check_store",
    "check_sync",
    "leaving_no_folder",
    "require_place",
    "write_advice",
]

_SYNC_ROUNDS: Final = 20
_SYNC_BYTES: Final = 10_000
_SLOW_SYNC_SECONDS: Final = 0.020
# A disk cannot have written in this time what it says that it has: it answers from memory.
_UNLIKELY_SYNC_SECONDS: Final = 0.00002
_PROBE_BYTES: Final = 1000
# S3 refuses requests that are 15 minutes off; a minute off is a clock that nobody sets.
_CLOCK_FAILS_SECONDS: Final = 300.0
_CLOCK_WARNS_SECONDS: Final = 30.0
_LINE_ADVICE: Final = "nobody answers there: look at the network, its firewall and proxy, and at the store's endpoint"


@contextlib.contextmanager
def leaving_no_folder(folders: Iterable[Path]) -> Iterator[None]:
    """Remove the folders that were made in the meantime, and their parents: they would be this user's, for good."""
    missing = [path for folder in folders for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in sorted(missing, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):  # it is in use by now
                path.rmdir()


def check_folder(folder: Path) -> str:
    """Write into a folder; one that is not there is not made, since it would be this user's and not the edge's."""
    if not folder.exists():
        above = place_of(folder)
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise Problem(f"{folder} is not there, and {above} cannot be written to", write_advice(folder))
        return f"{folder} is not there yet; the edge makes it"
    try:
        probe = folder / f".doctor-{secrets.token_hex(4)}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        advice = SPACE_ADVICE if is_full(error) else write_advice(folder)
        raise Problem(f"{folder} cannot be written to: {error.strerror}", advice) from error
    return f"{folder} can be written to"


def check_owner(folder: Path) -> str:
    """Look for what the user that a folder belongs to cannot use: commands that another user ran may have left it."""
    if not folder.exists():
        raise Skip(f"{folder} is not there yet", "run it again when the edge has run")
    owner = folder.stat().st_uid
    foreign = [path for path in _walk(folder) if path.lstat().st_uid != owner]
    if foreign:
        name = foreign[0].relative_to(folder)
        text = f"{len(foreign)} files or folders are not the user's that {folder} belongs to: {name} for one"
        raise Problem(text, f"chown -R --reference={folder} {folder}")
    if hasattr(os, "geteuid") and os.geteuid() not in {0, owner}:
        raise Warn(f"{folder} is another user's", f"run the edge, and this, as that user: sudo -u '#{owner}'")
    return f"all of {folder} is one user's"


def _walk(folder: Path) -> Iterator[Path]:
    """Yield folders and files down to where files of images lie, of which a spool may have a million."""
    for parent in (folder, *(each for each in folder.iterdir() if each.is_dir())):
        yield from (each for each in parent.iterdir() if not each.name.startswith(".doctor-"))


def check_space(folder: Path, slow_below_bytes: int, refuse_below_bytes: int) -> str:
    """Compare free space with the watermarks."""
    folder = require_place(folder)
    free = shutil.disk_usage(folder).free
    text = f"{_gigabytes(free)} free"
    if free < refuse_below_bytes:
        text += f", below refuse_below_bytes ({_gigabytes(refuse_below_bytes)}): images are refused"
        raise Problem(text, "free space on the volume, or move spool.dir to a larger one")
    if free < slow_below_bytes:
        text += f", below slow_below_bytes ({_gigabytes(slow_below_bytes)}): images are received slowly"
        raise Warn(text, "free space on the volume, or lower spool.slow_below_bytes")
    return text


def check_journal(folder: Path) -> str:
    """Look whether the file system keeps a name through a power loss, of which a rename takes one away."""
    if lacks_journal(require_place(folder)):
        raise Warn(
            "the file system has no journal: a power loss can take images that were acknowledged",
            "put the spool on xfs, btrfs or ext4 with a journal: tune2fs -O has_journal, while it is not mounted",
        )
    return "the file system is none that is known to have no journal"


def check_sync(folder: Path) -> str:
    """Measure what a durable write costs: each image costs one before it is acknowledged."""
    folder = require_place(folder)
    content = os.urandom(_SYNC_BYTES)
    costs = []
    for _ in range(_SYNC_ROUNDS):
        path = folder / f".doctor-{secrets.token_hex(4)}"
        started = time.perf_counter()
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL)
        try:
            os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            costs.append(time.perf_counter() - started)
            path.unlink()
    cost = statistics.median(costs)
    text = f"a durable write takes {cost * 1000:.2f} ms: about {1 / cost:,.0f} small images a second and association"
    if cost > _SLOW_SYNC_SECONDS:
        raise Warn(text, "put the spool on an SSD of its own, not on a network share or a disk that others keep busy")
    if cost < _UNLIKELY_SYNC_SECONDS:
        raise Warn(text, "this is memory, not a disk: what is acknowledged is lost with the power")
    return text


def place_of(folder: Path) -> Path:
    """Return a folder, or the nearest above it that is there: the same volume, unless one is to be mounted on it."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def require_place(folder: Path) -> Path:
    """Return the place of a folder; look no further where there is none to look at: that was said."""
    place = place_of(folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise Skip(f"{folder} cannot be written to", "repair the folder first")
    return place


def check_port(bind: str, port: int, is_ours: Callable[[], str | None]) -> str:
    """Bind a port; one that is taken is asked whether it is ours that runs there, and what it says."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except PermissionError as error:
            advice = (
                f"use a port above 1023, or give the program the right: setcap cap_net_bind_service=+ep, port {port}"
            )
            raise Problem(f"port {port} may not be used by {_user()}", advice) from error
        except OSError as error:
            answer = is_ours()
            if answer is not None:
                return f"port {port} is in use by dicomflow: {answer}"
            advice = f"find what has it with `ss -ltnp | grep :{port}`, stop it or choose another port or address"
            raise Problem(f"cannot listen on {bind} port {port}: {error.strerror}", advice) from error
    return f"port {port} on {bind} is free"


def check_store(store: ObjectStore, key: str, advice: str) -> str:
    """Put a small object, get it, compare, and delete it; an edge needs the right to put only."""
    content = secrets.token_bytes(_PROBE_BYTES)
    started = time.perf_counter()
    try:
        store.put(key, content, use_multipart=False)
    except Exception as error:
        advice = SPACE_ADVICE if is_full(error) else _LINE_ADVICE if is_unreachable(error) else advice
        raise Problem(f"put failed: {describe_refusal(error)}", advice) from error
    text = f"put in {(time.perf_counter() - started) * 1000:.0f} ms"
    missing = []
    found = content
    try:
        found = bytes(store.get(key).bytes())
        text += ", got it back"
    except Exception as error:  # noqa: BLE001  # S3's own, and the network's
        missing.append(f"get failed: {describe_refusal(error)}")
    if found != content:
        raise Problem(f"{key} came back with other bytes", "the store is damaged or is not one: look at its logs")
    try:
        store.delete(key)
        text += ", deleted it"
    except Exception as error:  # noqa: BLE001  # as above
        missing.append(f"delete failed: {describe_refusal(error)}")
    if missing:
        advice = f"an edge needs s3:PutObject only; the pipeline s3:GetObject and s3:DeleteObject too. {key} may stay"
        raise Warn(f"{text}; {'; '.join(missing)}", advice)
    return text


def check_clock(store: ObjectStore, key: str) -> str:
    """Compare our clock with the store's, by the time it gives an object that is put now."""
    before = datetime.now(UTC)
    try:
        store.put(key, b"", use_multipart=False)
        theirs = store.head(key)["last_modified"]
    except Exception as error:
        raise Skip(f"the store's time is not known: {describe_refusal(error)}", "repair the store first") from error
    finally:
        _forget(store, key)
    after = datetime.now(UTC)
    # The store's time has whole seconds.
    off = 0.0
    if theirs < before:
        off = max(0.0, (before - theirs).total_seconds() - 1)
    elif theirs > after:
        off = (theirs - after).total_seconds()
    text = f"{off:.0f} s between this clock and the store's"
    advice = "set the clock with NTP: timedatectl set-ntp true, or chrony; w32tm on Windows"
    if off > _CLOCK_FAILS_SECONDS:
        raise Problem(f"{text}; S3 refuses requests from 15 minutes on", advice)
    if off > _CLOCK_WARNS_SECONDS:
        raise Warn(text, advice)
    return text


def _forget(store: ObjectStore, key: str) -> None:
    try:
        store.delete(key)
    except Exception:  # noqa: BLE001  # an empty object stays, which `check_store` has said
        return


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def write_advice(folder: Path) -> str:
    """Say what lets this user write into a folder."""
    if hasattr(os, "statvfs") and os.statvfs(place_of(folder)).f_flag & os.ST_RDONLY:
        return "mount its volume for writing, mount -o remount,rw; the kernel's log says if a fault made it read-only"
    return f"give the user {_user()} the right to write there: mkdir -p {folder}; chown {_user()} {folder}"


def _user() -> str:
    import getpass  # noqa: PLC0415  # only for an advice

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "this user"
