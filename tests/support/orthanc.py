"""An Orthanc of a test's own."""

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from waiting import WAIT_SECONDS, free_ports, wait_for

__all__ = ["Orthanc"]


class Orthanc:
    """An Orthanc of its own, with one modality. One owner: the test."""

    def __init__(self, folder: Path, modality: dict[str, Any], **more: Any) -> None:
        program = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        if program is None:
            pytest.skip("Orthanc is not installed (package orthanc)")
        self.http_port, self.dicom_port = free_ports(2)
        self._log = folder / "orthanc.log"
        folder.mkdir()
        settings = {
            "Name": "interop",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {"dicomflow": modality | {"Host": "127.0.0.1"}},
            **more,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, str(folder / "orthanc.json")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for(self._is_ready, explain=self.tail)

    def post(self, path: str, body: bytes) -> Any:
        """Post to its REST API and return the answer."""
        return self._ask(path, body, "POST")

    def put(self, path: str, document: Any) -> Any:
        """Put JSON to its REST API and return the answer."""
        return self._ask(path, json.dumps(document).encode(), "PUT")

    def get(self, path: str) -> Any:
        """Ask its REST API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=WAIT_SECONDS) as answer:
            return json.load(answer)

    def upload(self, paths: tuple[Path, ...]) -> list[str]:
        """Give it files, and return its own names for them."""
        return [self.post("/instances", path.read_bytes())["ID"] for path in paths]

    def tail(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-3000:]

    def close(self) -> None:
        """Kill it: an orderly end takes seconds, and nothing of it is kept."""
        self._process.kill()
        self._process.wait(WAIT_SECONDS)

    def _ask(self, path: str, body: bytes, method: str) -> Any:
        url = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, body, method=method), timeout=WAIT_SECONDS) as answer:
            return json.loads(answer.read() or b"null")

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self.tail()
        try:
            return bool(self.get("/system"))
        except OSError:
            return False
