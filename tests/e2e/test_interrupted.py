"""A bootstrap that is cut short leaves nothing half-done: the next one goes on, and the one after changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.local_mesh import NAMES, ROOT, LocalMesh

pytestmark = [pytest.mark.timeout(180), pytest.mark.skipif(os.geteuid() != 0, reason="agents here run as root")]


@pytest.fixture
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """Three agents to be, which will only pretend to run pods."""
    mesh = LocalMesh(tmp_path_factory.mktemp("mesh"))
    mesh.write_inventory(beemesh_runtime="mock", beemesh_images=[])
    try:
        yield mesh
    finally:
        mesh.down()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_an_interrupted_bootstrap_resumes(mesh: LocalMesh, number: signal.Signals) -> None:
    """Cut short again and again, at whatever it was doing, it ends as one that ran through."""
    # The script, as a person would: under `-m`, CPython dies of a Ctrl-C within an import although we answered it.
    command = [str(Path(sys.executable).with_name("beemeshctl")), "bootstrap", str(mesh.inventory), "--no-passphrase"]
    cut = 0
    for patience_s in (0.4, 0.8, 1.2, 1.6, 2.0, 2.4):
        process = subprocess.Popen(
            command, cwd=ROOT, env=mesh.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
            cut += 1
        output = process.communicate(timeout=20)[0]
        assert "Traceback" not in output, output
        if number == signal.SIGINT and process.returncode:
            assert "interrupted" in output, output
            assert process.returncode == 1
    assert cut >= 2, "no bootstrap was cut short: the test proves nothing"
    whole = mesh.bootstrap()
    assert whole.returncode == 0, whole.stdout + whole.stderr
    again = mesh.json("bootstrap", str(mesh.inventory), "--no-passphrase")
    assert [host["changed"] for host in again["hosts"]] == [0] * len(NAMES)
    assert mesh.run("get", "nodes").stdout.count(" Ready ") == len(NAMES)
