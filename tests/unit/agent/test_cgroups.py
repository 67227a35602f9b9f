"""Control groups, version 1 and 2, as trees of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cgroups import Limits, read_limits

GIB = 1 << 30


def tree(base: Path, membership: str, files: dict[str, str]) -> Limits:
    """The limits that a tree of files amounts to."""
    (base / "self").write_text(membership)
    root = base / "cgroup"
    root.mkdir()
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return read_limits(root, base / "self")


V2 = {"cgroup.controllers": "cpu memory"}


@pytest.mark.parametrize(
    ("membership", "files", "limits"),
    [
        ("0::/\n", V2, Limits()),
        ("0::/\n", V2 | {"cpu.max": "150000 100000", "memory.max": str(GIB)}, Limits(1500, GIB)),
        ("0::/a/b\n", V2 | {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, Limits(500)),
        ("0::/a/b\n", V2 | {"a/memory.max": str(GIB), "a/b/memory.max": str(2 * GIB)}, Limits(None, GIB)),
        ("0::/not/here\n", V2 | {"memory.max": str(GIB)}, Limits(None, GIB)),
        ("0::/../../x\n", V2 | {"memory.max": str(GIB)}, Limits(None, GIB)),
        ("0::/\n", V2 | {"memory.max": "max", "cpu.max": "rubbish"}, Limits()),
        (
            "0::/a\n",
            V2 | {"a/memory.max": "1000", "a/memory.current": "700", "a/memory.stat": "anon 5\ninactive_file 300"},
            Limits(None, 1000, 400),
        ),
        (
            "4:memory:/pod\n3:cpu,cpuacct:/pod\n1:name=systemd:/x\n",
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/pod/memory.limit_in_bytes": str(GIB),
                "memory/pod/memory.usage_in_bytes": "100",
                "cpu,cpuacct/pod/cpu.cfs_quota_us": "25000",
                "cpu,cpuacct/pod/cpu.cfs_period_us": "100000",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
            },
            Limits(250, GIB, 100),
        ),
        ("", {}, Limits()),
    ],
)
def test_the_tightest_limit_holds(tmp_path: Path, membership: str, files: dict[str, str], limits: Limits) -> None:
    """Whatever the version, and wherever on the way to the root it stands."""
    assert tree(tmp_path, membership, files) == limits


def test_a_fuller_group_above_leaves_less(tmp_path: Path) -> None:
    """What is left is what the fullest group on the way leaves, though another has the lower limit."""
    files = {"a/memory.max": "1000", "a/memory.current": "900", "a/b/memory.max": "800", "a/b/memory.current": "100"}
    limits = tree(tmp_path, "0::/a/b\n", V2 | files)
    assert limits == Limits(None, 800, 700)


def test_no_control_groups_is_no_limit(tmp_path: Path) -> None:
    """A system without them has the whole machine."""
    assert read_limits(tmp_path / "none", tmp_path / "nothing") == Limits()
