"""An edge as a process of its own."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from waiting import WAIT_SECONDS, wait_for

from dicomflow.edge.spool.folders import Spool

__all__ = ["EdgeDaemon"]


class EdgeDaemon:
    """`dicomflow edge` as a process of its own; its log tells the ports."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        self.folder = folder
        self.log = folder / "edge.log"
        self.spool = Spool(folder / "spool")
        self.objects = folder / "objects"
        settings: dict[str, dict[str, Any]] = {
            "dimse": {"port": 0, "bind": "127.0.0.1"},
            "spool": {"dir": str(folder / "spool"), "workers": 2, "slow_below_bytes": 0, "refuse_below_bytes": 0},
            "delivery": {"store_url": self.objects.as_uri(), "quiet_seconds": 0.2},
        }
        lines = ['name = "site-1"', "http_port = 0"]
        for name, section in settings.items():
            values = (section | sections.get(name, {})).items()
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values)]
        self.config = folder / "edge.toml"
        self.config.write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes]

    def start(self) -> "EdgeDaemon":
        """Start it and wait until it is ready."""
        self.launch()
        wait_for(lambda: self.http_port and self.get("/readyz")[0] == 200, explain=self.tail)
        return self

    def launch(self) -> None:
        """Start it."""
        self.log.write_bytes(b"")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DICOMFLOW_")}
        command = [sys.executable, "-m", "dicomflow", "edge", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    @property
    def port(self) -> int:
        """The DIMSE port."""
        return int(re.findall(r"edge_started .*port=(\d+)", self.log.read_text())[0])

    @property
    def http_port(self) -> int:
        """The HTTP port; 0 before it is known."""
        return int((re.findall(r"http_started .*port=(\d+)", self.log.read_text()) or [0])[0])

    def get(self, path: str) -> tuple[int, str]:
        """Ask its HTTP port."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=WAIT_SECONDS) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def children(self) -> list[int]:
        """Return the ids of the processes it started that run now, the oldest first."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        listed = [int(pid) for each in threads for pid in each.read_text().split()]
        return sorted((pid for pid in listed if b"spawn_main" in _command_line(pid)), key=_age)

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text()[-4000:]

    def close(self) -> None:
        """Kill whatever is left of it."""
        if hasattr(self, "process"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(WAIT_SECONDS)


def _age(pid: int) -> tuple[int, int]:
    """Return what sorts processes by their start: numbers begin again at the system's last."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]), pid
    return 0, pid


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
