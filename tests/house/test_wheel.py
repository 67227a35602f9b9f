"""The wheel that people install: built for real, installed apart from the checkout, and tried from there."""

from __future__ import annotations

import site
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.sources import PRODUCT, ROOT, files, name

BUILD_DEADLINE_S = 60
PROGRAMS = ("beemeshctl", "beemesh-agent")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel. `--no-build-isolation`: hatchling comes from the environment of the tests, not from an index."""
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    argv += ["--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_DEADLINE_S)
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("beemesh-*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel in it.

    The libraries come from the environment of the tests by a `.pth`, which shows them, but not the checkout: the
    editable install's own `.pth` is not read from there. So a package that the wheel lacks is missing.
    """
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=BUILD_DEADLINE_S)
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin" / "python")]
    argv += ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_DEADLINE_S)
    assert done.returncode == 0, done.stderr
    [target] = folder.glob("lib/python*/site-packages")
    (target / "libraries_of_the_tests.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder


def _run(folder: Path, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run in the fresh environment, outside of the checkout, with nothing of ours on the path."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=30)


def test_the_wheel_has_every_file_that_is_shipped(wheel: Path) -> None:
    """Modules, playbooks, templates and schemas of the product are in the wheel; tests and examples are not."""
    packed = set(zipfile.ZipFile(wheel).namelist())
    kinds = (".py", ".yml", ".yaml", ".j2", ".json")
    missing = {name(file) for kind in kinds for file in files(*PRODUCT, suffix=kind)} - packed
    strangers = {entry for entry in packed if entry.split("/")[0] not in PRODUCT and ".dist-info/" not in entry}

    assert not missing
    assert not strangers
    assert any(entry.endswith("licenses/LICENSE") for entry in packed)


@pytest.mark.parametrize("package", PRODUCT)
def test_the_fresh_environment_finds_our_packages_in_itself(elsewhere: Path, package: str) -> None:
    """Every package is imported from the installed wheel, none from the checkout."""
    done = _run(elsewhere, [str(elsewhere / "bin" / "python"), "-c", f"import {package}; print({package}.__file__)"])

    assert done.stdout.startswith(str(elsewhere)), done.stdout + done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_installed_programs_answer(elsewhere: Path, program: str) -> None:
    """`--help` of both programs works from the installed wheel, in any folder."""
    done = _run(elsewhere, [str(elsewhere / "bin" / program), "--help"])

    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def _modules() -> Iterator[str]:
    for file in files("beemesh", "agent", "beemeshctl", "simulator"):
        parts = list(file.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] != "__main__":
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_installed_module_loads(elsewhere: Path) -> None:
    """Every module of the wheel can be imported where there is no checkout."""
    script = f"import importlib\nfor module in {sorted(_modules())!r}:\n    importlib.import_module(module)\n"
    done = _run(elsewhere, [str(elsewhere / "bin" / "python"), "-c", script])

    assert done.returncode == 0, done.stderr
