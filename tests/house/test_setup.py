"""What a newcomer runs first: the make targets, and the scripts that set things up or say what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import beemesh
from tests.house.sources import ROOT, project


def _script(name: str, *arguments: str, path: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path or os.environ["PATH"], "HOME": "/nonexistent", **more}
    argv = [str(ROOT / "scripts" / name), *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, cwd=ROOT)


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A folder for PATH with a shell's usual helpers, no python, no apt and no packages."""
    for program in ("sh", "env", "id", "dirname", "sed", "cut"):
        (tmp_path / program).symlink_to(Path("/usr/bin") / program)
    return tmp_path


def _program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_a_python_that_is_new_enough_is_found() -> None:
    """The script names a real interpreter of 3.11 or later, whatever `python3` is on PATH."""
    found = _script("python", PYTHON=sys.executable).stdout.strip()
    version = subprocess.run([found, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True)

    assert version.stdout == b"True\n"


def test_an_old_python_is_passed_over(bare_path: Path) -> None:
    """A `python3` that is too old is skipped for a later candidate; nothing is guessed."""
    _program(bare_path, "python3", "exit 1")
    _program(bare_path, "python3.11", f'exec {sys.executable} "$@"')

    found = _script("python", path=str(bare_path)).stdout.strip()

    assert Path(found).name.startswith("python3")
    assert found != str(bare_path / "python3")


def test_packages_that_are_there_are_not_installed_again(bare_path: Path) -> None:
    """With nothing missing, apt is not called at all."""
    _program(bare_path, "dpkg-query", "printf installed")
    _program(bare_path, "apt-get", "echo called; exit 1")

    done = _script("packages", "podman", "runc", path=str(bare_path))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_package_without_apt_is_named(bare_path: Path) -> None:
    """Where there is no apt, the script fails and names what is missing."""
    _program(bare_path, "dpkg-query", "exit 1")

    done = _script("packages", "podman", path=str(bare_path))

    assert done.returncode == 1
    assert "podman" in done.stderr


def test_a_missing_package_without_root_says_what_to_run(bare_path: Path) -> None:
    """Without root and sudo, the script fails with the command that a person can run."""
    _program(bare_path, "dpkg-query", 'case "$*" in *runc*) printf installed ;; *) exit 1 ;; esac')
    _program(bare_path, "apt-get", "exit 1")
    (bare_path / "id").unlink()
    _program(bare_path, "id", "echo 1000")

    done = _script("packages", "podman", "runc", path=str(bare_path))

    assert done.returncode == 1
    assert "sudo apt-get install --no-install-recommends podman\n" in done.stderr


@pytest.mark.parametrize("target", ["venv", "check", "test", "demo", "demo-down", "bench"])
def test_make_knows_its_targets(target: str) -> None:
    """Every target that the papers name exists, and `make help` lists it."""
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30).stdout

    assert f"make {target} " in shown


def test_continuous_integration_runs_everything() -> None:
    """`.ci/run` is executable and runs `make test`, with nobody to answer questions."""
    script = ROOT / ".ci" / "run"

    assert os.access(script, os.X_OK)
    assert "exec make test </dev/null" in script.read_text()


def test_there_is_one_version() -> None:
    """The package and the distribution name the same version."""
    assert project()["project"]["version"] == beemesh.__version__  # type: ignore[index]
