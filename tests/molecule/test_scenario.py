"""Runs the molecule scenario whole, with its own machine, and takes away what a failed run leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.sources import ROOT
from tests.machines import harness
from tests.machines.podman import podman

pytestmark = [pytest.mark.molecule, pytest.mark.machines, pytest.mark.podman, pytest.mark.timeout(900)]

SCENARIO_DEADLINE_S = 600
"""A whole scenario takes about a minute, and some more where the machines' image must be built."""


@pytest.fixture
def prefix() -> Iterator[str]:
    """A name for this run's machine; whatever carries it is gone afterwards."""
    name = f"mol{uuid.uuid4().hex[:5]}"
    try:
        yield name
    finally:
        harness.remove_labelled(name)


def _molecule(prefix: str, cache: Path, *arguments: str) -> tuple[int, str]:
    foreign = ("ANSIBLE_", "MOLECULE_", "BEEMESH_")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(foreign)},
        "MOLECULE_GLOB": "tests/molecule/*/molecule.yml",
        "MOLECULE_EPHEMERAL_DIRECTORY": str(cache),
        "ANSIBLE_HOME": str(cache / "ansible"),
        "BEEMESH_MOLECULE_PREFIX": prefix,
        "BEEMESH_MOLECULE_OWNER": harness.owner_name(),
        "BEEMESH_MOLECULE_PYTHON": sys.executable,
        "NO_COLOR": "1",
    }
    process = subprocess.Popen(
        ["molecule", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SCENARIO_DEADLINE_S)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return process.returncode, output


def test_bootstrap_under_real_ansible(prefix: str, tmp_path: Path) -> None:
    """Molecule creates a machine, bootstraps it twice (the second changes nothing), runs a pod and destroys it."""
    code, output = _molecule(prefix, tmp_path, "test", "--scenario-name", "bootstrap", "--destroy", "always")

    assert code == 0, output[-8000:]
    assert prefix not in podman("ps", "--all", "--format", "{{.Names}}"), "destroy left the machine behind"
    assert prefix not in podman("volume", "ls", "--quiet"), "destroy left volumes behind"
