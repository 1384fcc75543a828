"""A device's nucleus in a scratch root: unpacks a component, fills in variables, runs the recipe's own scripts."""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import yaml
from spool_files import digests
from waiting import WAIT_SECONDS, wait_for

from infra import greengrass

__all__ = ["MACHINE", "VARIABLE", "Nucleus", "digest"]

MACHINE = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "aarch64", "arm64": "aarch64"}[platform.machine()]
DEAD_PROXY = "http://127.0.0.1:9"  # whoever asks a network fails at once
VARIABLE = re.compile(r"\{([^{}]+)\}")


class Nucleus:
    """A device's nucleus as far as a component sees it: unpacks, fills in variables, runs the steps of the recipe.

    With `is_lite` paths end with a slash, as Nucleus Lite has them.
    """

    def __init__(self, root: Path, configuration: dict[str, Any], *, is_lite: bool = False) -> None:
        self.root = root
        self.configuration = configuration
        self.work = root / "work" / greengrass.COMPONENT
        self.work.mkdir(parents=True, exist_ok=True)
        self._slash = "/" if is_lite else ""
        self._runtime = "aws_nucleus_lite" if is_lite else None
        self._manifest: dict[str, Any] = {}
        self._unpacked = root
        self._running: subprocess.Popen[bytes] | None = None

    def deploy(self, artifact: Path, version: str) -> str:
        """Unpack a version, run its install step and return what it said."""
        self._unpacked = self.root / "packages" / "artifacts-unarchived" / greengrass.COMPONENT / version
        if not self._unpacked.exists():
            zipfile.ZipFile(artifact).extractall(self._unpacked / artifact.stem)
            for path in self._unpacked.rglob("*"):
                path.chmod(0o555 if path.is_dir() else 0o444)
        artifacts = dict.fromkeys(greengrass.PLATFORMS, greengrass.Artifact(f"s3://b/{artifact.name}", artifact.stem))
        recipe = yaml.safe_load(greengrass.render_recipe(version, artifacts))
        self._manifest = next(found for found in recipe["Manifests"] if self._is_for_us(found["Platform"]))
        defaults = recipe["ComponentConfiguration"]["DefaultConfiguration"]
        self.configuration = {**defaults, **self.configuration}
        return self.step("install")

    def step(self, name: str) -> str:
        """Run a step to its end, within its time."""
        step = self._manifest["Lifecycle"][name]
        result = subprocess.run(
            ["sh", "-c", self._filled(step["Script"])],
            check=False,
            cwd=self.work,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=step.get("Timeout", 120),
        )
        assert 0 == result.returncode, result.stdout + result.stderr
        return result.stdout

    def start(self) -> None:
        """Begin the run step and wait until the edge is ready."""
        script = self._filled(self._manifest["Lifecycle"]["run"]["Script"])
        with (self.root / "component.log").open("ab") as log:
            self._running = subprocess.Popen(
                ["sh", "-c", script], cwd=self.work, env=self._environment(), stdout=log, stderr=log
            )
        url = f"http://127.0.0.1:{int(self.configuration['edge']['http_port'])}/readyz"
        wait_for(lambda: self._running_answers(url), explain=self.log)

    def stop(self) -> None:
        """Stop as a nucleus does, but for its patience: the shutdown step where there is one, else SIGTERM.

        That an edge needs no more than a nucleus's five seconds is for `tests/edge/test_supervisor.py`.
        """
        assert self._running is not None
        if self._runtime is None:
            assert "stopped" in self.step("shutdown")
            assert 0 == self._running.wait(WAIT_SECONDS), self.log()
        else:
            self._running.terminate()
            assert 0 == self._running.wait(WAIT_SECONDS), self.log()

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self._running is not None and self._running.poll() is None:
            self._running.kill()
            self._running.wait(WAIT_SECONDS)

    def spooled(self) -> set[str]:
        """Return the SHA-256 of each instance in the spool."""
        return digests(self.work / "spool")

    def log(self) -> str:
        """Return what the component said."""
        return (self.root / "component.log").read_text()[-4000:]

    def _running_answers(self, url: str) -> bool:
        assert self._running is not None
        assert self._running.poll() is None, self.log()
        try:
            with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _is_for_us(self, wanted: dict[str, str]) -> bool:
        has_runtime = wanted.get("runtime") in ({"*", self._runtime} if self._runtime else {"*", None})
        return wanted["os"] == "linux" and wanted["architecture"] == MACHINE and has_runtime

    def _environment(self) -> dict[str, str]:
        given = {name: self._filled(text) for name, text in self._manifest["Lifecycle"]["Setenv"].items()}
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "PIP_CONFIG_FILE": os.devnull,
            "http_proxy": DEAD_PROXY,
            "https_proxy": DEAD_PROXY,
            "no_proxy": "127.0.0.1",
            "AWS_IOT_THING_NAME": "iep-edge-1",
            "EDGE_PYTHON": sys.executable,
            **given,
        }

    def _filled(self, text: str) -> str:
        return VARIABLE.sub(lambda found: self._value(found[1]), text)

    def _value(self, name: str) -> str:
        values = {
            "work:path": f"{self.work}{self._slash}",
            "artifacts:decompressedPath": f"{self._unpacked}{self._slash}",
        }
        if name in values:
            return values[name]
        kind, pointer = name.split(":/")
        assert "configuration" == kind
        found = self.configuration[pointer]
        # The nucleus keeps numbers as such with a fraction.
        return json.dumps(found, default=str) if isinstance(found, dict) else str(found)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
