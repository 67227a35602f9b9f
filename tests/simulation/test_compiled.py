"""A compiled copy of the simulator does what the plain code does."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from scripts.compile_simulator import PLAIN, ROOT, compilable, compile_into
from simulator.tally import Trials, code_here, read
from simulator.trial import Trial

CAN_COMPILE = shutil.which("cc") is not None and (Path(sysconfig.get_path("include")) / "Python.h").is_file()
SOME = ("beemesh/rates.py", "beemesh/membership/local_health.py", "beemesh/dht/claims.py")
"""A few modules: all of them take minutes."""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not CAN_COMPILE, reason="there is no C compiler, or Python's headers are not installed")
def test_the_same_seed_has_the_same_trace_in_native_modules(tmp_path: Path) -> None:
    """Some modules are native, and nothing that happens shows it; a row says that it is of the same code."""
    assert set(SOME) <= set(compilable(ROOT))
    assert all((ROOT / name).is_file() for name in PLAIN)

    compile_into(tmp_path, SOME)

    assert len(list((tmp_path / "beemesh" / "dht").glob("claims.*.so"))) == 1
    command = [sys.executable, "-m", "simulator", "run", "--seeds", "1", "--nodes", "3", "--seconds", "2"]
    subprocess.run([*command, "--done", "rows"], cwd=tmp_path, check=True, capture_output=True)
    row = read(tmp_path / "rows", Trials("mesh", 3, 2.0))[1]
    assert (row.trace, row.code) == (Trial(1, 3, 2).run().trace, code_here())
