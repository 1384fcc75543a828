"""The demonstration: real DIMSE in, the seed's six queries out.

Starts `dicomflow local` in a temporary folder, sends files with `dicomflow send` and, where it is installed, with
DCMTK's storescu, waits until every instance is stored, indexed and mapped to an image set, and prints the tables.
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
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from rich.console import Console

from dicomflow import samples
from dicomflow.catalog.report import create_read_only_engine, run_read_only
from dicomflow.cli.tables import print_table
from dicomflow.edge.spool.view import count_files
from dicomflow.errors import DicomflowError

QUERIES: Final = ("Patient", "Study", "Series", "Instance", "Ahlijob", "Ahliimageset")
START_SECONDS: Final = 60
STOP_SECONDS: Final = 30
POLL_SECONDS: Final = 0.25
SHOWN_ROWS: Final = 20

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


def main() -> int:
    """Run the demonstration and return its exit code."""
    arguments = _parse_arguments()
    # 120 columns where there is no terminal, so that a log stays readable.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    data = Path(tempfile.mkdtemp(prefix="dicomflow-demo-"))
    daemon: Daemon | None = None
    kept = False
    try:
        paths = [path.absolute() for path in arguments.paths]
        if not paths:
            samples.write(samples.demo_studies(), data / "sent")
            paths = [data / "sent"]
        expected = _instances(paths)
        daemon = Daemon(data)
        console.print(f"receiver on port {daemon.dimse_port}, pages on {daemon.url}, data in {data}")
        console.print("sending with dicomflow send")
        _send(daemon.dimse_port, paths)
        _wait(console, daemon, expected, arguments.timeout)
        if _send_again(console, daemon.dimse_port, paths, generated=not arguments.paths):
            _wait(console, daemon, expected, arguments.timeout)
        _show(console, data)
        console.print(f"[green]{len(expected)} of {len(expected)} instances stored, indexed and mapped[/green]")
        kept = arguments.keep
    except (DemoError, DicomflowError) as error:
        console.print(f"demo: {error}", style="red", markup=False)
        return 1
    finally:
        if daemon is not None and not kept:
            daemon.stop()
        if not kept:
            shutil.rmtree(data, ignore_errors=True)
    if kept:
        console.print(f"left running: send to 127.0.0.1 port {daemon.dimse_port}, look at {daemon.url}")
        console.print(f"stop it with: kill {daemon.process.pid}; then remove {data}", highlight=False)
    return 0


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
    parser.add_argument("--keep", action="store_true", help="leave it running and print the addresses")
    parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="wait this long for the import")
    arguments = parser.parse_args()
    for path in arguments.paths:
        if not path.exists():
            parser.error(f"{path} does not exist")
    return arguments


def _instances(paths: list[Path]) -> set[str]:
    """Return the SOP Instance UIDs of the DICOM files under the paths."""
    uids = set()
    for path in _files(paths):
        with contextlib.suppress(InvalidDicomError):
            uid = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID")
            if uid:
                uids.add(str(uid))
    if not uids:
        raise DemoError("no DICOM file found in the given paths")
    return uids


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(child for child in path.rglob("*") if child.is_file())
        else:
            yield path


def _send(port: int, paths: list[Path]) -> None:
    sent = subprocess.run(  # noqa: S603  # our own command
        [*_dicomflow("send"), "127.0.0.1", str(port), *map(str, paths)], env=_environment(), check=False
    )
    if sent.returncode:
        raise DemoError(f"dicomflow send ended with code {sent.returncode}: something was not stored")


def _send_again(console: Console, port: int, paths: list[Path], *, generated: bool) -> bool:
    """Send once more, with DCMTK's storescu if there is one: a repeat must change nothing in the index."""
    storescu = shutil.which("storescu")
    if storescu is None:
        console.print("DCMTK's storescu is not installed: sent once")
        return False
    files = [str(path) for path in _files(paths)]
    if generated:  # storescu refuses to send SOP classes that it does not know
        files = [file for file in files if _sop_class(file) != samples.PRIVATE_SECONDARY_CAPTURE]
    console.print(f"sending {len(files)} of them again with DCMTK's storescu")
    repeated = subprocess.run(  # noqa: S603  # found on the PATH
        [storescu, "-nh", "-R", "-xy", "-aec", "DICOMFLOW", "127.0.0.1", str(port), *files],
        env={**_environment(), "TCP_NODELAY": "1"},
        check=False,
    )
    if repeated.returncode and generated:
        raise DemoError(f"storescu ended with code {repeated.returncode}")
    if repeated.returncode:
        console.print("storescu could not send all of them: it offers uncompressed and 8-bit JPEG only")
    return True


def _sop_class(file: str) -> str:
    return str(dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID"]).SOPClassUID)


def _wait(console: Console, daemon: Daemon, expected: set[str], timeout: float) -> None:
    """Wait until every expected instance is mapped and nothing else is under way.

    Raises:
        DemoError: the time is over, or what is left has failed.
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
            if mapped == expected and not waiting and not spooled:
                return
            trouble = run_read_only(engine, TROUBLE)[1]
            progress.update(f"{len(mapped)} of {len(expected)} mapped, {waiting} waiting for their import")
            if time.monotonic() > deadline or (trouble and not waiting and not spooled):
                break
            time.sleep(POLL_SECONDS)
        indexed = {row[0] for row in run_read_only(engine, "SELECT sop_instance_uid FROM instance")[1]} & expected
    reasons = "".join(f"\n  {key}: {reason}" for key, reason in trouble[:20])
    raise DemoError(
        f"of {len(expected)} instances {len(expected - indexed)} are not indexed and"
        f" {len(expected - mapped)} not mapped to an image set; {spooled} are in the spool{reasons}"
        f"\n{daemon.log_tail()}"
    )


def _show(console: Console, data: Path) -> None:
    engine = create_read_only_engine(f"sqlite:///{data / 'catalog.db'}")
    try:
        for name in QUERIES:
            sql = f"SELECT * FROM {name}"  # noqa: S608  # a name of ours
            print_table(console, sql, *run_read_only(engine, sql), hide_empty=True, max_rows=SHOWN_ROWS)
            console.print()
    finally:
        engine.dispose()


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
