"""The demonstration: real DIMSE in, the seed's six queries out.

Starts `dicomflow local` in a temporary folder, sends files with `dicomflow send` and, where it is installed, with
DCMTK's storescu, waits until every instance is stored, indexed and mapped to an image set, and says so on one screen.
In a terminal it stays up until Ctrl-C, for the console to be looked at.
Exit codes: 0 all of it happened, 1 something is missing, 2 called wrongly.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from rich.console import Console

from dicomflow import samples
from dicomflow.catalog.conflicts import list_conflicts
from dicomflow.catalog.report import create_read_only_engine, run_read_only
from dicomflow.cli.tables import print_table
from dicomflow.edge.spool.view import count_files
from dicomflow.errors import DicomflowError

QUERIES: Final = ("Patient", "Study", "Series", "Instance", "Ahlijob", "Ahliimageset")
START_SECONDS: Final = 60
STOP_SECONDS: Final = 30
POLL_SECONDS: Final = 0.25
SHOWN_ROWS: Final = 20

# What storescu proposes a transfer syntax of a file with, so that it sends the file as it is; of others it would send
# other bytes, and the catalog would call that a conflict.
STORESCU_PROPOSALS: Final = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.5": "-xr",
}

MAPPED: Final = """
SELECT instance.sop_instance_uid FROM instance
JOIN series ON series.series_key = instance.series_key
JOIN study ON study.study_key = series.study_key
JOIN import_outcome ON import_outcome.object_key = instance.object_key
JOIN series_image_set ON series_image_set.series_instance_uid = series.series_instance_uid
AND series_image_set.study_instance_uid = study.study_instance_uid
WHERE import_outcome.outcome IN ('imported', 'warned')
"""
WAITING: Final = """
SELECT object_key FROM stored_object WHERE problem IS NULL
AND NOT EXISTS (SELECT 1 FROM import_outcome WHERE import_outcome.object_key = stored_object.object_key)
"""
TROUBLE: Final = """
SELECT object_key, problem AS reason FROM stored_object WHERE problem IS NOT NULL
UNION ALL SELECT object_key, reason FROM import_outcome WHERE outcome = 'failed'
UNION ALL SELECT input_prefix, message FROM series_import WHERE status = 4
"""


class DemoError(Exception):
    """The demonstration did not reach its end; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What `dicomflow send` said: how many the receiver took, and a line for each that it did not."""

    stored: int
    not_stored: list[str]


def main() -> int:
    """Run the demonstration and return its exit code."""
    arguments = _parse_arguments()
    is_terminal = sys.stdout.isatty()
    # 120 columns where there is no terminal, so that a log stays readable.
    console = Console() if is_terminal else Console(width=120)
    data = Path(tempfile.mkdtemp(prefix="dicomflow-demo-"))
    daemon: Daemon | None = None
    is_left = False
    try:
        paths = [path.absolute() for path in arguments.paths]
        if not paths:
            samples.write(samples.demo_studies(), data / "sent")
            paths = [data / "sent"]
        files = _read(paths)
        console.print("starting dicomflow local", style="dim")
        daemon = Daemon(data)
        is_whole = _demonstrate(console, daemon, files, arguments, paths)
        is_left = arguments.keep
        if is_left:
            console.print(f"It stays running; end it with: kill {daemon.process.pid}; rm -r {data}", soft_wrap=True)
        elif is_terminal:
            _stay(console, daemon)
        code = 0 if is_whole else 1
    except (DemoError, DicomflowError) as error:
        console.print(f"demo: {error}", style="red", markup=False)
        code = 1
    finally:
        if daemon is not None and not is_left:
            daemon.stop()
        if not is_left:
            shutil.rmtree(data, ignore_errors=True)
    return code


def _demonstrate(
    console: Console, daemon: "Daemon", files: dict[str, list[Path]], arguments: argparse.Namespace, paths: list[Path]
) -> bool:
    """Send, wait, send again and show; return whether every instance came to its end."""
    started = time.monotonic()
    console.print(f"sending {len(files)} instances with dicomflow send", style="dim")
    sent = _send(daemon.dimse_port, paths)
    uids, without = _wait(console, daemon, set(files), sent, arguments.timeout)
    seconds = time.monotonic() - started
    before = _versions(daemon.data)
    again = _send_again(console, daemon.dimse_port, [file for uid in uids for file in files[uid][:1]])
    if again:
        _wait(console, daemon, uids, sent, arguments.timeout)
    changed = _versions(daemon.data) - before
    repeat = f"; {again} sent again, " + (f"{changed} came as other bytes" if changed else "nothing changed")
    counts = {"instances": len(files), "sent": sent.stored, "mapped": len(uids)}
    _show(console, daemon, counts, f"in {seconds:.1f} s{repeat if again else ''}", is_tables=arguments.tables)
    for reason in (*sent.not_stored, *without)[:SHOWN_ROWS]:
        console.print(f"  {reason}", style="red", markup=False, soft_wrap=True)
    return len(uids) == len(files) and not sent.not_stored


def _stay(console: Console, daemon: "Daemon") -> None:
    """Wait for Ctrl-C, or for the end of what was started."""
    console.print("It runs until Ctrl-C; then its data are removed.")
    stopping = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda _number, _frame: stopping.set())
    while not stopping.wait(POLL_SECONDS):
        daemon.require_running()


class Daemon:
    """`dicomflow local` as a process of its own."""

    def __init__(self, data: Path) -> None:
        """Start it and wait until it is ready.

        Raises:
            DemoError: it ended, or was not ready in time.
        """
        self.data = data
        self._log = data / "local.log"
        http_port = _free_port()
        self.url = f"http://127.0.0.1:{http_port}"
        command = [*_dicomflow("local"), "--data", str(data), "--port", "0", "--http-port", str(http_port)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603  # our own command
                [*command, "--quiet-seconds", "1"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the demonstration, which then stops it properly
            )
        try:
            self.dimse_port = int(self._wait_until_ready()["dimse_port"])
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let it drain and end; kill it when it does not."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def require_running(self) -> None:
        """Raise DemoError when the process has ended."""
        if self.process.poll() is not None:
            raise DemoError(f"dicomflow local ended with code {self.process.returncode}\n{self.log_tail()}")

    def log_tail(self, lines: int = 30) -> str:
        """Return the last lines of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def _wait_until_ready(self) -> dict[str, Any]:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.require_running()
            try:
                with urllib.request.urlopen(f"{self.url}/healthz", timeout=5) as answer:  # noqa: S310  # http
                    health: dict[str, Any] = json.load(answer)
                    return health
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(POLL_SECONDS)
        raise DemoError(f"dicomflow local was not ready after {START_SECONDS} s\n{self.log_tail()}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="DICOM files or folders to send")
    parser.add_argument("--tables", action="store_true", help="print the rows of the six queries too")
    parser.add_argument("--keep", action="store_true", help="leave it running and print the addresses")
    parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="wait this long for the import")
    arguments = parser.parse_args()
    for path in arguments.paths:
        if not path.exists():
            parser.error(f"{path} does not exist")
    return arguments


def _read(paths: list[Path]) -> dict[str, list[Path]]:
    """Return the files of each SOP Instance UID that the DICOM files under the paths have."""
    found = defaultdict(list)
    for path in _files(paths):
        with contextlib.suppress(InvalidDicomError, OSError):  # dicomflow send says what it makes of those
            uid = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID")
            if uid:
                found[str(uid)].append(path)
    if not found:
        raise DemoError("no DICOM file found in the given paths")
    return dict(found)


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(child for child in path.rglob("*") if child.is_file())
        else:
            yield path


def _send(port: int, paths: list[Path]) -> Sent:
    command = [*_dicomflow("send"), "127.0.0.1", str(port), *map(str, paths), "--json"]
    done = subprocess.run(  # noqa: S603  # our own command
        command, env=_environment(), check=False, stdout=subprocess.PIPE, text=True
    )
    try:
        told = json.loads(done.stdout)
    except ValueError:
        raise DemoError(f"dicomflow send ended with code {done.returncode}") from None
    return Sent(told["stored"], [f"{each['path']}: {each['reason']}" for each in told["failed"]])


def _send_again(console: Console, port: int, files: list[Path]) -> int:
    """Send once more, with DCMTK's storescu if there is one: a repeat must change nothing; return how many it sent."""
    storescu = shutil.which("storescu")
    if storescu is None:
        console.print("DCMTK's storescu is not installed: sent once", style="dim")
        return 0
    by_proposal: dict[str, list[str]] = defaultdict(list)
    for file in files:
        meta = dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID"]).file_meta
        proposal = STORESCU_PROPOSALS.get(str(meta.TransferSyntaxUID))
        # storescu refuses to send SOP classes that it does not know
        if proposal and meta.MediaStorageSOPClassUID != samples.PRIVATE_SECONDARY_CAPTURE:
            by_proposal[proposal].append(str(file))
    console.print(f"sending {sum(map(len, by_proposal.values()))} again with DCMTK's storescu", style="dim")
    sent = 0
    for proposal, names in by_proposal.items():
        done = subprocess.run(  # noqa: S603  # found on the PATH
            [storescu, "-nh", "-R", proposal, "-aec", "DICOMFLOW", "127.0.0.1", str(port), *names],
            env={**_environment(), "TCP_NODELAY": "1"},
            check=False,
        )
        sent += 0 if done.returncode else len(names)
    return sent


def _wait(
    console: Console, daemon: Daemon, expected: set[str], sent: Sent, timeout: float
) -> tuple[set[str], list[str]]:
    """Wait until every instance that was taken is mapped, or has failed, and nothing is under way.

    Returns:
        The instances that are mapped to an image set, and a line for each that will not be.

    Raises:
        DemoError: the time is over.
    """
    engine = create_read_only_engine(f"sqlite:///{daemon.data / 'catalog.db'}")
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(engine.dispose)
        progress = cleanup.enter_context(console.status("waiting for the import"))
        while True:
            daemon.require_running()
            mapped = {row[0] for row in run_read_only(engine, MAPPED)[1]} & expected
            waiting = len(run_read_only(engine, WAITING)[1])
            spooled = sum(count_files(daemon.data / "spool").values())
            is_idle = not waiting and not spooled
            if is_idle and mapped == expected:
                return mapped, []
            trouble = [f"{key}: {reason}" for key, reason in run_read_only(engine, TROUBLE)[1]]
            if is_idle and (trouble or sent.not_stored) and len(mapped) + len(trouble) >= sent.stored:
                return mapped, trouble
            progress.update(f"{len(mapped)} of {len(expected)} mapped, {waiting} waiting for their import")
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
    reasons = "".join(f"\n  {each}" for each in trouble[:SHOWN_ROWS])
    raise DemoError(
        f"after {timeout:g} s {len(expected - mapped)} of {len(expected)} instances are not mapped to an image set;"
        f" {spooled} are in the spool{reasons}\n{daemon.log_tail()}"
    )


def _versions(data: Path) -> int:
    """Return how many instances there are with several contents."""
    engine = create_read_only_engine(f"sqlite:///{data / 'catalog.db'}")
    try:
        with engine.connect() as connection:
            return sum(each.kind == "versions" for each in list_conflicts(connection))
    finally:
        engine.dispose()


def _show(console: Console, daemon: Daemon, counts: dict[str, int], how: str, *, is_tables: bool) -> None:
    """Print the last screen: what came of it, the six queries' counts, where to look and what to try."""
    engine = create_read_only_engine(f"sqlite:///{daemon.data / 'catalog.db'}")
    tables = []
    try:
        for name in QUERIES:
            sql = f"SELECT * FROM {name}"  # noqa: S608  # a name of ours
            tables.append((name, sql, *run_read_only(engine, sql)))
        stored = run_read_only(engine, "SELECT count(*) FROM stored_object WHERE problem IS NULL")[1][0][0]
        counts = counts | {"indexed": len(run_read_only(engine, "SELECT 1 FROM instance")[1])}
    finally:
        engine.dispose()
    if is_tables:
        for _, sql, columns, rows in tables:
            print_table(console, sql, columns, rows, hide_empty=True, max_rows=SHOWN_ROWS)
            console.print()
    is_whole = counts["mapped"] == counts["instances"]
    console.print(
        f"{counts['sent']} sent, {stored} stored, {counts['indexed']} indexed,"
        f" {counts['mapped']} of {counts['instances']} mapped to an image set, {how}",
        style="bold green" if is_whole else "bold red",
        soft_wrap=True,
    )
    for name, sql, _, rows in tables:
        console.print(f"  {sql:<28}{len(rows):>5} row{'' if len(rows) == 1 else 's'}", highlight=name == "")
    console.print(f"Console:  {daemon.url}/studies", soft_wrap=True)
    console.print(
        f"Try next: .venv/bin/dicomflow send 127.0.0.1 {daemon.dimse_port} FOLDER    (images of your own)\n"
        f"          .venv/bin/dicomflow status --data {daemon.data}",
        soft_wrap=True,
    )


def _dicomflow(command: str) -> list[str]:
    return [sys.executable, "-m", "dicomflow", "--log-level", "INFO", command]


def _environment() -> dict[str, str]:
    """Return the environment without dicomflow's settings: the demonstration touches no other installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DICOMFLOW_")}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
