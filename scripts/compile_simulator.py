"""A compiled copy of the simulator and of the state machines that it drives, for runs of many hours.

    .venv/bin/python scripts/compile_simulator.py /tmp/compiled      # some minutes, with a C compiler
    cd /tmp/compiled && .../.venv/bin/python -m simulator run --seeds 0..9999 --done rows

mypyc makes native modules of typed Python. The same seed gives the same trace as the plain code, in about 0.7 of the
time; `python -m simulator run --again rows` in the project says so of any row. What is planted or monkeypatched needs
the plain code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("beemesh", "simulator")
SETTINGS = """\
[tool.mypy]
strict = true
[[tool.mypy.overrides]]
module = ["Crypto.*"]
ignore_missing_imports = true
"""
PLAIN = (
    # mypyc cannot
    "beemesh/workloads/settings.py",  # fails within itself
    "beemesh/workloads/structure.py",  # lone surrogates in a string
    "simulator/locks.py",  # asked for an attribute of the class
    # a native frozen class cannot go from process to process, and no plain class can be made from a native one
    "simulator/plan.py",
    "simulator/ordeal.py",
    "simulator/trial.py",
    "simulator/scheduling_trial.py",
    "simulator/batch.py",
    "simulator/tally.py",
    # nothing to gain: data, or used once
    "beemesh/errors.py",
    "beemesh/events.py",
    "beemesh/effects.py",
    "beemesh/identity/certificates.py",
    "simulator/commands.py",
    "simulator/golden.py",
    "simulator/plot.py",
)
"""Modules that stay as they are, by why."""


def compilable(folder: Path) -> Iterator[str]:
    """The modules under a folder that mypyc can make native: none with a wire format, whose class msgspec makes."""
    for part in COPIED:
        for file in sorted((folder / part).rglob("*.py")):
            name = file.relative_to(folder).as_posix()
            if name not in PLAIN and not file.name.startswith("__") and "(msgspec.Struct" not in file.read_text():
                yield name


def compile_into(folder: Path, only: Sequence[str] = ()) -> int:
    """Copy, compile; the number of native modules. Raises `CalledProcessError` when mypyc or the compiler fails."""
    for part in COPIED:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pyproject.toml").write_text(SETTINGS)
    names = list(only or compilable(folder))
    environment = {**os.environ, "MYPYPATH": str(folder), "MYPYC_OPT_LEVEL": "1"}  # more takes long to compile
    command = [sys.executable, "-m", "mypyc", *names]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return len(names)


def main() -> int:
    """Make the copy and tell how to use it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet")
    folder = parser.parse_args().folder.resolve()
    if folder.exists():
        print(f"error: {folder} exists already\n  name another folder, or remove it", file=sys.stderr)
        return 2
    folder.mkdir(parents=True)
    try:
        native = compile_into(folder)
    except subprocess.CalledProcessError:
        shutil.rmtree(folder)
        print("error: mypyc failed\n  is there a C compiler? what it says stands above", file=sys.stderr)
        return 1
    except BaseException:
        shutil.rmtree(folder)
        raise
    print(f"{native} modules are native. Go on with:\n  cd {folder} && {sys.executable} -m simulator run --help")
    return 0


if __name__ == "__main__":
    sys.exit(main())
