"""The edge as a Windows service, for sites without Greengrass; needs pywin32, which the artifact's wheels hold.

Installed from the environment that component.py made, by an administrator:

    python windows_service.py --startup auto install
    python windows_service.py start

The service runs `component.py run` with the folders below and ends it with itself. The edge is ended, not asked: a
service has no console to send Ctrl-C to. What it acknowledged is in the spool.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import servicemanager
import win32event
import win32service
import win32serviceutil

ARTIFACT = Path(__file__).resolve().parent
DATA = Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "dicomflow"
EXIT_SECONDS = 10


class EdgeService(win32serviceutil.ServiceFramework):
    """Starts the edge, waits for its end or for the order to stop."""

    _svc_name_ = "dicomflow-edge"
    _svc_display_name_ = "dicomflow edge"
    _svc_description_ = "Receives DICOM and delivers it to the cloud."
    _svc_deps_: ClassVar[list[str]] = ["Tcpip"]

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(arguments)
        self._stopping = win32event.CreateEvent(None, 0, 0, None)

    def SvcStop(self) -> None:  # noqa: N802  # the name that pywin32 calls
        """Take the order to stop."""
        self.ReportServiceStatus(win32service.SERVICE_STOP_PENDING)
        win32event.SetEvent(self._stopping)

    def SvcDoRun(self) -> None:  # noqa: N802  # the name that pywin32 calls
        """Run until the order to stop; an edge that ends by itself ends the service with an error, to be restarted."""
        servicemanager.LogInfoMsg("dicomflow edge starts")
        command = [sys.executable, "-u", str(ARTIFACT / "component.py"), "run", str(DATA), str(DATA / "edge.toml")]
        with (DATA / "edge.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603  # our own command
        while win32event.WaitForSingleObject(self._stopping, 1000) != win32event.WAIT_OBJECT_0:
            if process.poll() is not None:
                servicemanager.LogErrorMsg(f"dicomflow edge ended with code {process.returncode}; see {DATA}\\edge.log")
                os._exit(process.returncode or 1)
        # The whole tree: component.py, the edge and its workers.
        tree = ["taskkill", "/f", "/t", "/pid", str(process.pid)]
        subprocess.run(tree, check=False, capture_output=True, timeout=EXIT_SECONDS)  # noqa: S603  # as above
        servicemanager.LogInfoMsg("dicomflow edge stopped")


if __name__ == "__main__":
    win32serviceutil.HandleCommandLine(EdgeService)
