"""A person at a terminal, for tests and benches on whole machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.local import hello_image
from tests.machines.harness import Machines

ROOT = Path(__file__).resolve().parents[2]


class Operator:
    """A person with `beemeshctl`, an inventory and a manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "BEEMESH_HOME": str(folder / "home"), "HOME": str(folder)}

    def run(self, *words: str, patience_s: float = 180.0) -> subprocess.CompletedProcess[str]:
        """One command line, with its exit code and output."""
        command = [sys.executable, "-m", "beemeshctl.main", *words]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=patience_s, check=False
        )

    def json(self, *words: str) -> Any:
        """What a command answers with `-o json`."""
        result = self.run(*words, "-o", "json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def deploy(self, manifest: str) -> None:
        """Apply what a manifest says, and wait until it runs."""
        file = self.folder / "manifest.yaml"
        file.write_text(manifest)
        applied = self.run("apply", str(file), "--wait", "--timeout", "90s")
        assert applied.returncode == 0, applied.stdout + applied.stderr

    def running(self) -> dict[str, str]:
        """Ready pods and their nodes."""
        result = self.run("get", "pods", "-o", "json")
        if result.returncode:
            return {}
        return {
            pod["metadata"]["name"]: pod["spec"]["nodeName"]
            for pod in json.loads(result.stdout)["items"]
            if pod["spec"].get("nodeName") and pod["status"]["phase"] == "Running"
        }


def eventually(condition: Callable[[], bool], patience_s: float) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.5)
    return False


def bootstrapped(machines: Machines, folder: Path) -> Operator:
    """An operator whose mesh of all `machines` stands, with the image that tests run; files lie in `folder`."""
    archive = folder / "hello.tar"
    digest = hello_image.build(archive).removeprefix("sha256:")
    operator = Operator(folder)
    (folder / "home").mkdir(mode=0o700)
    (folder / "home" / "known_hosts").write_text(Path(machines.known_hosts).read_text())
    inventory = machines.inventory(
        folder / "inventory.yaml",
        beemesh_mesh="trial",
        beemesh_images=[{"archive": str(archive), "sha256": digest, "name": hello_image.IMAGE}],
    )
    first = operator.run("bootstrap", str(inventory), "--no-passphrase")
    assert first.returncode == 0, first.stdout + first.stderr
    return operator
