"""What the agent writes down for its guard, and how the guard's helper ends pods by it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import daemon, end_pods, guard, guarding, rights
from agent.end_pods import Endings
from agent.guarding import START_AGAIN_S, Guarding, guarding_for
from agent.rights import AGAIN_S, LATE_S, PATIENCE_S, GuardPaths, Rights
from agent.runtime.contract import FailureReason, Runtime, RuntimeFailure
from agent.runtime.mock import MockHost, MockRuntime, Script
from beemesh.events import MemberUp, RunRight
from beemesh.ids import NodeId
from tests.contract.runtime_rigs import pod

BOOT = "673b71a5-757a-4b92-891b-b7cf1f5903a5"
POD, OTHER = "default/lone", "default/other"


class Process:
    """A guard that was started."""

    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> int | None:
        """As of `Popen`."""
        return self.code


class Rig:
    """The guarding of an agent, at the time that the test says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths = GuardPaths.of(folder / "locks", "n1", folder / "data")
        self.now_s = 100.0
        self.started: list[Process] = []
        self.is_running = False
        monkeypatch.setattr(guarding, "boot_s", lambda: self.now_s)
        monkeypatch.setattr(guard, "is_running", lambda _: self.is_running)
        self.guarding = self.anew()

    def anew(self) -> Guarding:
        """As of an agent that starts."""
        return Guarding(self.paths, ["end"], boot=BOOT, start=self._start)

    def _start(self, _paths: GuardPaths, _command: Sequence[str]) -> subprocess.Popen[bytes]:
        self.started.append(Process())
        return cast(Any, self.started[-1])

    def hear(self, name: str, until_s: float | None) -> None:
        """The core says something."""
        self.guarding.hear(RunRight(name, until_s))

    @property
    def written(self) -> Rights | None:
        """What stands in the file."""
        return rights.read(self.paths.rights, BOOT)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """An agent that has said nothing yet."""
    return Rig(tmp_path, monkeypatch)


def test_each_word_of_the_core_is_written_at_once(rig: Rig) -> None:
    """A pod, a later deadline, another pod, and that one is gone."""
    rig.hear(POD, 113.0)
    assert rig.written == {POD: 113.0}
    rig.hear(POD, 118.0)
    rig.hear(OTHER, 120.5)
    assert rig.written == {POD: 118.0, OTHER: 120.5}
    rig.hear(POD, None)
    assert rig.written == {OTHER: 120.5}
    rig.hear(OTHER, None)
    assert rig.written == {}


def test_the_shell_hands_each_word_over(tmp_path: Path) -> None:
    """Before anything else hears of it, and nothing but such words."""
    heard: list[Any] = []
    agent = daemon.Agent.__new__(daemon.Agent)
    place: Any = agent
    place._guarding = SimpleNamespace(hear=heard.append)
    place._door = SimpleNamespace(observe=heard.append)
    place.observers = []
    right, other = RunRight(POD, 113.0), MemberUp(NodeId(b"n" * 16))

    agent._observe(right)
    agent._observe(other)

    assert heard == [right, right, other]


def test_a_guard_is_started_with_the_first_pod_and_again_when_it_ended(rig: Rig) -> None:
    """But not while one runs, be it of an earlier agent, and no more often than there is reason to."""
    rig.hear(POD, None)
    assert rig.started == []
    rig.is_running = True
    rig.hear(POD, 113.0)
    assert rig.started == []
    rig.is_running = False
    for _ in range(3):
        rig.hear(POD, 113.0)
    assert len(rig.started) == 1

    rig.started[0].code = 1
    rig.now_s += START_AGAIN_S - 0.1
    rig.hear(POD, 118.0)
    assert len(rig.started) == 1
    rig.now_s += 0.1
    rig.hear(POD, 118.0)
    assert len(rig.started) == 2

    rig.started[1].code = 0
    rig.now_s += START_AGAIN_S
    rig.hear(POD, None)
    assert len(rig.started) == 2


def test_what_an_earlier_agent_wrote_stands(rig: Rig) -> None:
    """Until the core has said something else; and it has a guard at once."""
    rig.hear(POD, 113.0)
    rig.started.clear()
    rig.guarding = rig.anew()
    rig.guarding.take_over()
    assert rig.written == {POD: 113.0}
    assert len(rig.started) == 1

    rig.hear(OTHER, 115.0)
    assert rig.written == {POD: 113.0, OTHER: 115.0}


def test_what_nobody_looks_after_any_more_is_forgotten(rig: Rig) -> None:
    """A pod that went while no agent was there is told of by nobody, and another one may take its name."""
    rig.hear(POD, 113.0)
    rig.guarding = rig.anew()
    rig.now_s = 113.0 + LATE_S + PATIENCE_S
    rig.guarding.take_over()

    assert rig.written == {}


def test_rights_of_another_boot_are_not_taken_over(rig: Rig) -> None:
    """Nor is a guard started for them."""
    rights.write(rig.paths.rights, rights.encode("another", {POD: 113.0}))
    rig.guarding.take_over()
    rig.hear(OTHER, 115.0)

    assert rig.written == {OTHER: 115.0}


def test_a_file_that_nobody_may_go_by_is_removed_at_the_start(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """And written anew with the first word of the core."""
    rights.write(rig.paths.rights, b"odd")
    rig.guarding.take_over()
    assert not rig.paths.rights.exists()
    assert "not guarded" in caplog.text

    rig.hear(POD, 113.0)
    assert rig.written == {POD: 113.0}


def test_deadlines_that_cannot_be_written_are_withdrawn(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By the old ones, pods would be ended that were given more time. It is said once, and tried with each word."""
    rig.hear(POD, 113.0)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(rights, "write", refuse)
        rig.hear(POD, 118.0)
        rig.hear(POD, 123.0)
    assert not rig.paths.rights.exists()
    assert caplog.text.count("No space left on device") == 1

    rig.hear(OTHER, 125.0)
    assert rig.written == {POD: 123.0, OTHER: 125.0}


def test_where_the_file_cannot_be_removed_either_the_guard_is_ended(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No guard is better than one that goes by old deadlines."""
    ended: list[bool] = []
    rig.hear(POD, 113.0)
    rig.paths.rights.unlink()
    rig.paths.rights.mkdir()
    monkeypatch.setattr(guard, "stop_others", lambda _, all_of_them: ended.append(all_of_them))
    rig.hear(POD, 118.0)

    assert ended == [True]


def test_a_pod_of_an_odd_name_costs_no_other_its_guard(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """One odd line, and nobody would go by the file."""
    rig.hear("default/od d", 113.0)
    rig.hear(POD, 113.0)

    assert rig.written == {POD: 113.0}
    assert "cannot be guarded" in caplog.text


def test_nothing_is_left_of_an_agent_that_goes(rig: Rig) -> None:
    """Neither its file nor the lock of a guard that was killed."""
    rig.hear(POD, 113.0)
    rig.paths.lock.touch()
    guarding.forget(rig.paths)
    guarding.forget(rig.paths)

    assert list(rig.paths.lock.parent.iterdir()) == []


def test_pods_that_end_with_their_agent_need_no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the mock engine; and without the kernel's word for this boot nobody could tell deadlines apart."""
    settings = SimpleNamespace(
        runtime=SimpleNamespace(engine="mock"),
        node=SimpleNamespace(name="n1"),
        paths=SimpleNamespace(locks="/run/lock/beemesh", data="/var/lib/beemesh"),
    )
    loaded: Any = SimpleNamespace(settings=settings, directory=Path("/etc/beemesh"))
    assert guarding_for(loaded) is None
    settings.runtime.engine = "podman"
    assert guarding_for(loaded) is not None
    monkeypatch.setattr(rights, "BOOT_ID", Path("/nowhere/boot_id"))
    assert guarding_for(loaded) is None


# ending


class Engine(MockRuntime):
    """A mock engine that notes what is removed, and may fail."""

    def __init__(self, rig: EndingRig) -> None:
        super().__init__(host=rig.host, script=Script(any_image=True))
        self._rig = rig

    async def list(self) -> Sequence[Any]:
        """See `Runtime.list`."""
        if self._rig.lists:
            return await super().list()
        raise RuntimeFailure(FailureReason.ENGINE_ERROR, "it cannot tell")

    async def remove(self, pod_id: str) -> None:
        """See `Runtime.remove`."""
        self._rig.removed.append(pod_id)
        if self._rig.before_removal is not None:
            self._rig.before_removal()
        if self._rig.fails:
            raise RuntimeFailure(FailureReason.ENGINE_ERROR, "the engine is stuck")
        await super().remove(pod_id)


class EndingRig:
    """Pods of a machine whose agent is away."""

    def __init__(self) -> None:
        self.host = MockHost()
        self.rights: Rights | None = {POD: 100.0}
        self.now_s = 101.0
        self.lists, self.fails = True, False
        self.removed: list[str] = []
        self.before_removal: Callable[[], None] | None = None
        self.endings = Endings(lambda: self.rights, self._engine, lambda: self.now_s, lambda: self.now_s)

    def _engine(self) -> Runtime:
        return Engine(self)

    async def run_pod(self, name: str) -> None:
        """A pod starts."""
        await self._engine().deploy(pod(name))

    async def step(self, *moments_s: float) -> list[str]:
        """What is asked of the engine at these moments."""
        before = len(self.removed)
        for self.now_s in moments_s:
            await self.endings.step()
            await asyncio.gather(*self.endings._tasks.values())
        return self.removed[before:]


async def _with_pods(*names: str) -> EndingRig:
    rig = EndingRig()
    for name in names:
        await rig.run_pod(name)
    return rig


@pytest.mark.asyncio
async def test_only_overdue_pods_are_ended(caplog: pytest.LogCaptureFixture) -> None:
    """One line says so for each; whoever has time left, or no deadline, runs on."""
    rig = await _with_pods("default.lone", "default.other", "default.many")
    rig.rights = {POD: 100.0, OTHER: 100.5}

    assert await rig.step(101.0, 101.2) == ["default.lone"]
    assert set(rig.host.pods) == {"default.other", "default.many"}
    assert await rig.step(101.5) == ["default.other"]
    assert [line.getMessage().split(":")[0] for line in caplog.records] == [f"ended pod {POD}", f"ended pod {OTHER}"]


@pytest.mark.asyncio
async def test_a_deadline_that_moves_at_the_last_moment_saves_the_pod() -> None:
    """It is read again right before each removal, also by those that wait for others."""
    rig = await _with_pods("default.lone", "default.other")
    rig.rights = {POD: 100.0, OTHER: 100.0}
    rig.endings._slots = asyncio.Semaphore(1)

    def renew() -> None:
        rig.rights = {POD: 100.0, OTHER: 114.0}

    rig.before_removal = renew
    await rig.step(101.0)
    assert set(rig.host.pods) == {"default.other"}
    rig.rights = None
    assert await rig.step(140.0) == []


@pytest.mark.asyncio
async def test_a_pod_that_an_engine_was_still_starting_is_ended_too(caplog: pytest.LogCaptureFixture) -> None:
    """The first try is made unseen; later ones where it is listed, the engine cannot list, or the last one failed."""
    rig = await _with_pods()
    assert await rig.step(101.0) == ["default.lone"]
    assert caplog.records == []
    await rig.run_pod("default.lone")
    assert await rig.step(101.0 + AGAIN_S - 0.1) == []
    assert await rig.step(101.0 + AGAIN_S) == ["default.lone"]
    assert rig.host.pods == {}
    assert await rig.step(101.0 + 2 * AGAIN_S) == []
    rig.lists, rig.fails = False, True
    assert await rig.step(101.0 + 3 * AGAIN_S) == ["default.lone"]
    rig.lists = True
    assert await rig.step(101.0 + 4 * AGAIN_S) == ["default.lone"]


@pytest.mark.asyncio
async def test_a_pod_that_does_not_end_is_tried_again_for_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said in the beginning and in the end, and the exit code tells."""
    monkeypatch.setattr(end_pods, "LOOK_S", 0.0)
    rig = await _with_pods("default.lone")
    rig.fails = True

    def pass_time() -> None:
        rig.now_s += AGAIN_S

    rig.before_removal = pass_time
    async with asyncio.timeout(10):
        assert await rig.endings.run() == 1

    assert len(rig.removed) == PATIENCE_S / AGAIN_S
    assert ["it is tried again" in line.getMessage() for line in caplog.records] == [True, False]
    assert f"gave up on pod {POD}" in caplog.text


@pytest.mark.asyncio
async def test_a_pod_that_its_agent_sees_to_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It came back and said that the pod is gone, or that it may run on."""
    monkeypatch.setattr(end_pods, "LOOK_S", 0.0)
    for word in ({}, {POD: 120.0}, None):
        rig = await _with_pods("default.lone")
        rig.fails = True

        def come_back(rig: EndingRig = rig, word: Rights | None = word) -> None:
            rig.rights = word

        rig.before_removal = come_back
        async with asyncio.timeout(10):
            assert await rig.endings.run() == 0
        assert len(rig.removed) == 1
