"""The guard of pods that must not be doubled: its file, when it has pods ended, and how they are ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import guard, rights
from agent.guard import ENDING_S_MAX, IDLE_S, Guard
from agent.rights import (
    AGAIN_S,
    ENTRIES_MAX,
    FILE_BYTES_MAX,
    LATE_S,
    PATIENCE_S,
    GuardPaths,
    Overdue,
    Rights,
    RightsRefused,
)
from simulator import guard as simulated

BOOT = "673b71a5-757a-4b92-891b-b7cf1f5903a5"
POD = "default/lone"

names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,10}/[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)
deadlines = st.floats(-1e6, 1e9).map(lambda value: round(value, 3))


@pytest.fixture
def paths(tmp_path: Path) -> GuardPaths:
    """The files of an agent's guard, in a folder that is not there yet."""
    return GuardPaths.of(tmp_path / "locks", "n1", tmp_path / "data")


# the file


@given(st.dictionaries(names, deadlines))
def test_what_is_written_is_read(written: Rights) -> None:
    """Every name and deadline comes back, to the millisecond."""
    assert rights.decode(rights.encode(BOOT, written), BOOT) == written


@given(st.binary(max_size=400), st.booleans())
def test_whatever_stands_in_the_file_nothing_else_breaks(content: bytes, is_headed: bool) -> None:
    """Bytes of any kind are read as rights with sound names, or refused."""
    try:
        found = rights.decode((BOOT.encode() + b"\n" if is_headed else b"") + content, BOOT)
    except RightsRefused:
        return
    assert all(rights.is_name(pod) for pod in found)


@pytest.mark.parametrize(
    "line",
    [
        *("default/lone", "12.000", "12.000 default", "12.000 default/../etc", "12.000 a.b/lone", "12.000  a/b"),
        *("nan default/lone", "inf default/lone", "1e9 default/lone", "12 default/lone", "12.000 a/b c", "12.000 A/b"),
        *("12.000 default/lone\r", "12.000 default/l\u00f6ne", ""),
    ],
)
def test_one_odd_line_and_nobody_goes_by_the_file(line: str) -> None:
    """The agent writes it whole each time: what is odd in it is not the agent's."""
    with pytest.raises(RightsRefused):
        rights.decode(f"{BOOT}\n12.000 default/fine\n{line}\n".encode(), BOOT)


def test_a_file_that_was_cut_off_is_refused() -> None:
    """Half a deadline is an earlier one."""
    with pytest.raises(RightsRefused):
        rights.decode(rights.encode(BOOT, {POD: 12.0})[:-1], BOOT)


def test_deadlines_of_another_boot_mean_nothing() -> None:
    """The boot clock began anew, and the pods are gone."""
    assert rights.decode(rights.encode("another", {POD: 12.0}), BOOT) == {}


def test_more_than_fits_is_neither_written_nor_read(paths: GuardPaths) -> None:
    """Both by number and by size."""
    many = {f"default/p{number}": 1.0 for number in range(ENTRIES_MAX + 1)}
    with pytest.raises(RightsRefused):
        rights.encode(BOOT, many)
    with pytest.raises(RightsRefused):
        rights.encode(BOOT, {f"default/{number:0250}": 1.0 for number in range(ENTRIES_MAX // 2)})
    text = "".join(f"1.000 {pod}\n" for pod in many)
    with pytest.raises(RightsRefused):
        rights.decode(f"{BOOT}\n{text}".encode(), BOOT)
    rights.write(paths.rights, b"x" * (FILE_BYTES_MAX + 1))
    with pytest.raises(RightsRefused, match="larger than"):
        rights.read(paths.rights, BOOT)


def test_the_file_is_for_its_owner_alone(paths: GuardPaths) -> None:
    """Written with mode 600, and nothing else is left in the folder."""
    rights.write(paths.rights, rights.encode(BOOT, {POD: 12.0}))
    rights.write(paths.rights, rights.encode(BOOT, {POD: 13.0}))

    assert rights.read(paths.rights, BOOT) == {POD: 13.0}
    assert paths.rights.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in paths.rights.parent.iterdir()] == [paths.rights.name]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(paths: GuardPaths, mode: int) -> None:
    """Whoever may write it could have any guarded pod ended, or none."""
    rights.write(paths.rights, rights.encode(BOOT, {POD: 12.0}))
    paths.rights.chmod(mode)

    with pytest.raises(RightsRefused, match="others may write it"):
        rights.read(paths.rights, BOOT)


def test_a_file_of_somebody_else_is_refused(paths: GuardPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its mode; and so is the folder of somebody else."""
    rights.write(paths.rights, rights.encode(BOOT, {POD: 12.0}))
    uid = os.geteuid()
    os.chown(paths.rights.parent, uid or 12345, -1)
    monkeypatch.setattr("agent.rights.os.geteuid", lambda: uid + 1)

    with pytest.raises(RightsRefused, match="no file of ours"):
        rights.read(paths.rights, BOOT)
    with pytest.raises(RightsRefused, match="let it belong to the agent's user"):
        rights.write(paths.rights, b"")


def test_a_link_is_not_followed(paths: GuardPaths, tmp_path: Path) -> None:
    """It may lead to an older file."""
    rights.write(tmp_path / "old", rights.encode(BOOT, {POD: 12.0}))
    paths.rights.parent.mkdir()
    paths.rights.symlink_to(tmp_path / "old")

    with pytest.raises(OSError, match="symbolic links"):
        rights.read(paths.rights, BOOT)


def test_nothing_is_written_where_others_may_put_files(paths: GuardPaths) -> None:
    """Except where each may only touch their own, as in /tmp."""
    paths.rights.parent.mkdir()
    paths.rights.parent.chmod(0o777)
    with pytest.raises(RightsRefused, match="mode 755"):
        rights.write(paths.rights, b"")

    paths.rights.parent.chmod(0o1777)
    rights.write(paths.rights, b"")


def test_agents_of_one_host_have_files_of_their_own(tmp_path: Path) -> None:
    """Also where nodes of two meshes have one name."""
    both = {GuardPaths.of(tmp_path, "n1", tmp_path / mesh).rights for mesh in ("a", "b")}

    assert len(both) == 2


def test_the_guard_does_what_is_simulated() -> None:
    """The simulator judges meshes whose guards act so early, so often and for so long."""
    assert (LATE_S, AGAIN_S, PATIENCE_S) == (simulated.LATE_S, simulated.AGAIN_S, simulated.PATIENCE_S)


# what is overdue


def test_a_pod_is_overdue_a_second_after_its_deadline_and_for_a_minute() -> None:
    """Its agent has that second; after the minute somebody has to look."""
    overdue = Overdue()
    found = [overdue.look({POD: 100.0}, now_s, now_s) for now_s in (100.9, 101.0, 160.9, 161.0)]

    assert found == [[], [POD], [POD], []]


def test_a_deadline_that_moves_on_is_another_matter() -> None:
    """A pod that was given up and runs by a new right is ended in time, too."""
    overdue = Overdue()
    for now_s in (101.0, 161.0):
        overdue.look({POD: 100.0}, now_s, now_s)

    assert overdue.look({POD: 161.0}, 161.5, 161.5) == []
    assert overdue.look({POD: 161.0}, 162.0, 162.0) == [POD]


def test_a_machine_that_slept_past_the_deadline_ends_the_pod_when_it_wakes() -> None:
    """Only time awake counts as patience."""
    overdue = Overdue()
    overdue.look({POD: 100.0}, 99.0, 99.0)

    assert overdue.look({POD: 100.0}, 4000.0, 100.0) == [POD]


# the process that looks


class Ending:
    """A process that ends pods, for as long as the test wants."""

    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> int | None:
        """As of `Popen`."""
        return self.code

    def kill(self) -> None:
        """As of `Popen`."""
        self.code = -9


class Rig:
    """A guard whose file and clock are the test's."""

    def __init__(self, **pods: float) -> None:
        self.rights: Rights | Exception | None = {f"default/{name}": until_s for name, until_s in pods.items()}
        self.endings: list[Ending] = []
        self.fails = False
        self.guard = Guard(self._read, self._start)

    def _read(self) -> Rights | None:
        if isinstance(self.rights, Exception):
            raise self.rights
        return self.rights

    def _start(self) -> Ending:
        if self.fails:
            raise OSError(11, "no more processes")
        self.endings.append(Ending())
        return self.endings[-1]

    def look(self, *moments_s: float) -> list[float | None]:
        """Look at these moments, by both clocks."""
        return [self.guard.look(now_s, now_s) for now_s in moments_s]


def test_pods_are_ended_once_overdue_and_by_one_process_at_a_time() -> None:
    """It ends all that is overdue; when it has ended, and there is more to do, the next one follows after a while."""
    rig = Rig(lone=100.0, other=103.0)
    rig.look(99.0, 100.9)
    assert rig.endings == []
    rig.look(101.0, 102.0, 104.0, 105.0)
    assert len(rig.endings) == 1

    rig.endings[0].code = 0
    rig.look(106.0)
    assert len(rig.endings) == 2
    rig.endings[1].code = 1
    rig.look(106.0 + AGAIN_S - 0.1)
    assert len(rig.endings) == 2
    rig.look(106.0 + AGAIN_S)
    assert len(rig.endings) == 3


def test_nothing_is_ended_whose_deadline_was_moved_on() -> None:
    """The file is read anew at each look."""
    rig = Rig(lone=100.0)
    rig.look(100.5)
    rig.rights = {POD: 105.0}
    rig.look(101.0, 105.5)

    assert rig.endings == []


def test_the_guard_wakes_when_the_next_pod_is_overdue() -> None:
    """And once a second at least, since deadlines may come that are nearer."""
    assert Rig(lone=100.0).look(90.0, 100.6, 100.9999) == [1.0, pytest.approx(0.4), guard.LOOK_FIRST_S]


def test_an_ending_that_hangs_is_replaced() -> None:
    """What becomes overdue meanwhile must not wait for it for ever."""
    rig = Rig(lone=100.0, later=100.0 + ENDING_S_MAX)
    rig.look(101.0, 100.0 + ENDING_S_MAX)
    assert [each.code for each in rig.endings] == [None]

    rig.look(101.0 + ENDING_S_MAX)
    assert [each.code for each in rig.endings] == [-9, None]


def test_a_machine_without_room_for_a_process_is_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    """And says so once."""
    rig = Rig(lone=100.0)
    rig.fails = True
    rig.look(101.0, 103.0, 105.0)
    rig.fails = False
    rig.look(107.0)

    assert len(rig.endings) == 1
    assert capsys.readouterr().err.count("no more processes") == 1


def test_a_guard_without_pods_ends_after_a_while() -> None:
    """One that was given up is no pod to guard either; a new deadline makes it stay."""
    rig = Rig()
    assert rig.look(10.0, 9.9 + IDLE_S, 10.0 + IDLE_S) == [1.0, 1.0, None]

    rig = Rig(lone=100.0)
    rig.look(101.0, 101.0 + PATIENCE_S)
    assert rig.look(100.9 + PATIENCE_S + IDLE_S, 101.0 + PATIENCE_S + IDLE_S) == [1.0, None]

    rig = Rig()
    rig.look(10.0, 60.0)
    rig.rights = {POD: 80.0}
    assert rig.look(75.0) == [1.0]


def test_a_guard_whose_file_is_gone_ends_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The agent was taken from this machine. One of which nobody may go by counts as gone, and that is said."""
    rig = Rig(lone=100.0)
    rig.rights = None
    assert rig.look(101.0) == [None]
    assert capsys.readouterr().err == ""

    rig.rights = RightsRefused("others may write it")
    assert rig.look(101.0, 102.0) == [None, None]
    assert capsys.readouterr().err.count("others may write it") == 1
    assert rig.endings == []


def test_what_cannot_be_read_ends_nothing_and_the_guard_stays() -> None:
    """Such as in a moment without memory: the deadlines may be others by now."""
    rig = Rig(lone=100.0)
    rig.rights = OSError(12, "no memory")
    assert rig.look(101.0) == [1.0]
    assert rig.endings == []

    rig.rights = {POD: 100.0}
    rig.look(102.0)
    assert len(rig.endings) == 1


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """The guard's program inside this process: it never waits, and each read of its file answers what comes next."""
    monkeypatch.setattr(guard.signal, "signal", lambda *_: None)
    monkeypatch.setattr(guard.time, "sleep", lambda _: None)
    monkeypatch.setattr(guard, "LOCK_PATIENCE_S", 0.0)
    monkeypatch.setattr(rights, "boot_s", lambda: 50.0)

    def run(paths: GuardPaths, *reads: Rights | None) -> int:
        left = list(reads)
        monkeypatch.setattr(rights, "read", lambda *_: left.pop(0))
        code = guard.main([str(paths.rights), str(paths.lock), "true"])
        assert left == []
        return code

    yield run


def test_there_is_one_guard_of_an_agent(paths: GuardPaths, in_process: Callable[..., int]) -> None:
    """A second one ends without a look; when the first has ended, nothing of it is left."""
    paths.lock.parent.mkdir()
    held = guard._hold(paths.lock)
    assert held is not None
    assert guard.is_running(paths)
    assert in_process(paths) == 0

    os.close(held)
    assert not guard.is_running(paths)
    assert in_process(paths, {POD: 60.0}, None, None) == 0
    assert list(paths.lock.parent.iterdir()) == []


def test_what_is_written_while_the_guard_ends_keeps_it(paths: GuardPaths, in_process: Callable[..., int]) -> None:
    """The agent saw a guard, and started none."""
    paths.lock.parent.mkdir()
    assert in_process(paths, None, {POD: 60.0}, {POD: 60.0}, None, None) == 0


def test_a_guard_of_another_release_is_replaced_and_one_of_this_is_not(
    paths: GuardPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files may be deleted one day. Nothing is ended that is no guard, whatever stands in the lock."""
    paths.lock.parent.mkdir()
    held = guard._hold(paths.lock)
    assert held is not None
    killed: list[tuple[int, int]] = []

    def kill(pid: int, number: int) -> None:
        killed.append((pid, number))
        os.close(held)

    monkeypatch.setattr(guard.os, "kill", kill)
    paths.lock.write_text(f"{os.getpid()} /opt/beemesh/releases/old/lib/agent/guard.py")
    guard.stop_others(paths)
    assert killed == []

    monkeypatch.setattr(guard, "Path", lambda _: SimpleNamespace(read_bytes=lambda: b"python\0-m\0agent.guard"))
    paths.lock.write_text(f"{os.getpid()} {guard.__file__}")
    guard.stop_others(paths)
    assert killed == []
    paths.lock.write_text(f"{os.getpid()} /opt/beemesh/releases/old/lib/agent/guard.py")
    guard.stop_others(paths)
    assert killed == [(os.getpid(), signal.SIGTERM)]


def test_a_lock_of_somebody_else_is_no_guard(paths: GuardPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or whoever may put a file there could keep a guard from starting, or have a process ended."""
    paths.lock.parent.mkdir()
    held = guard._hold(paths.lock)
    assert held is not None
    uid = os.geteuid()
    monkeypatch.setattr(guard.os, "geteuid", lambda: uid + 1)

    assert not guard.is_running(paths)
    os.close(held)
