"""Pods end with the time that they are given, and a later order may leave them less."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from typing import Any

import pytest

from agent.asking import HOOK_COMMANDS_MAX
from agent.caretaker import LABEL_CARE, LEAST_GRACE_S, Caretaker
from agent.pods import Ending, PodJobs, PodWatch
from agent.runtime.contract import LABEL_WORKLOAD, ExecResult, FailureReason, PodStatus, RuntimeFailure
from agent.runtime.mock import MockRuntime
from beemesh.effects import Run
from beemesh.events import DeployPod, Observed, StopPod
from beemesh.ids import NodeId
from beemesh.secret import SecretBytes
from beemesh.workloads.care import ContainerCare, Exec, PodCare, ProbeSpec
from tests.contract.runtime_rigs import pod

pytestmark = pytest.mark.asyncio


class Engine:
    """A runtime and a watch whose pod ends when it is told to, and otherwise only by force."""

    def __init__(self, *, hooks: bool = False, removes: bool = True) -> None:
        self.log: list[str] = []
        self._heard: asyncio.Queue[str] = asyncio.Queue()
        self._hooks, self._removes = hooks, removes
        self.ended = asyncio.Event()

    def _note(self, call: str) -> None:
        self.log.append(call)
        self._heard.put_nowait(call)

    async def until(self, call: str) -> None:
        """Wait for a call."""
        async with asyncio.timeout(5):
            while await self._heard.get() != call:
                pass

    async def leave(self, pod_id: str, grace_s: float) -> float:
        """As `PodWatch.leave`."""
        self._note(f"leave {grace_s:g}")
        if self._hooks and grace_s:
            await self.ended.wait()
        return grace_s

    async def stop(self, pod_id: str, grace_s: float) -> None:
        """As `Runtime.stop`."""
        self._note(f"stop {grace_s:g}")
        if grace_s:
            await self.ended.wait()

    async def remove(self, pod_id: str) -> None:
        """As `Runtime.remove`."""
        self._note("remove")
        if not self._removes:
            raise RuntimeFailure(FailureReason.ENGINE_MISSING, "no engine")

    async def look(self) -> None:
        """As `PodWatch.look`."""


def _ending(engine: Engine, grace_s: float) -> Ending:
    both: Any = engine
    return Ending(both, both, "default.web-1-0", grace_s)


async def test_a_pod_that_ends_in_time_is_removed_once() -> None:
    """Both who ordered its end learn that it is gone; an order with more time changes nothing."""
    engine = Engine()
    ending = _ending(engine, 30)
    await engine.until("stop 30")
    ending.hurry(60)
    waiting = [asyncio.create_task(ending.gone()) for _ in range(2)]

    engine.ended.set()

    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
    assert engine.log == ["leave 30", "stop 30", "remove"]


@pytest.mark.parametrize("hooks", [False, True])
async def test_a_later_order_cuts_the_time_short(hooks: bool) -> None:
    """Whether its hooks still run or its processes have been asked already: it is ended at once, and removed."""
    engine = Engine(hooks=hooks)
    ending = _ending(engine, 600)
    await engine.until("leave 600" if hooks else "stop 600")

    ending.hurry(5)
    await engine.until("leave 5" if hooks else "stop 5")
    ending.hurry(0)

    async with asyncio.timeout(5):
        await ending.gone()
    assert engine.log[0] == "leave 600"
    assert engine.log[-3:] == ["leave 0", "stop 0", "remove"]


async def test_two_jobs_that_stop_a_pod_are_done_when_it_is_gone() -> None:
    """The second leaves it no time: it is removed once, and then both finish."""
    engine = Engine()
    both: Any = engine
    finished: asyncio.Queue[Any] = asyncio.Queue()
    jobs = PodJobs(both, "mesh", "node", finished.put_nowait, both)
    jobs.start(Run("first", StopPod("web-1-0", 600, "deleted", "default")))
    await engine.until("stop 600")

    jobs.start(Run("second", StopPod("web-1-0", 0, "deleted", "default")))

    async with asyncio.timeout(5):
        done = [await finished.get(), await finished.get()]
    assert {job.job_id: job.error for job in done} == {"first": "", "second": ""}
    assert engine.log == ["leave 600", "stop 600", "leave 0", "stop 0", "remove"]


async def test_what_could_not_be_removed_is_told_to_all_who_wait() -> None:
    """A failure of the engine reaches whoever ordered the end, first or later."""
    ending = _ending(Engine(removes=False), 0)

    for _ in range(2):
        with pytest.raises(RuntimeFailure):
            await ending.gone()


async def test_closing_waits_for_nothing() -> None:
    """An agent that ends leaves the rest to the next one."""
    engine = Engine()
    ending = _ending(engine, 600)
    await engine.until("stop 600")

    ending.close()

    with pytest.raises(asyncio.CancelledError):
        await ending.gone()
    assert "remove" not in engine.log


async def test_a_start_that_nobody_wants_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image may take a quarter of an hour to come: a revoked start ends at once, and undoes what it did."""
    monkeypatch.setattr("agent.pods.REVOKED_CHECK_S", 0.01)
    begun, undone = asyncio.Event(), asyncio.Event()

    async def pull() -> PodStatus:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            undone.set()
        raise AssertionError("nothing wakes it")

    task: Any = None
    job = DeployPod("web-1-0", task, 1, SecretBytes(b""))
    starting = asyncio.create_task(PodJobs._unless_revoked(job, pull()))
    async with asyncio.timeout(5):
        await begun.wait()
        job.right.until("lease", 0.0)  # over, but it may be renewed yet
        assert not (await asyncio.wait([starting], timeout=0.05))[0]
        job.right.revoke()
        with pytest.raises(RuntimeFailure) as failed:
            await starting

    assert failed.value.reason is FailureReason.NOT_PERMITTED
    assert undone.is_set()


async def test_a_pod_that_was_never_listed_is_removed_too() -> None:
    """A start that failed may have left something that runs, of which nobody has told yet."""
    runtime = MockRuntime()
    watch = PodWatch(runtime, NodeId(bytes(32)), "127.0.0.1", lambda _event: None, lambda _counted: None)
    finished: asyncio.Queue[Any] = asyncio.Queue()
    jobs = PodJobs(runtime, "mesh", "node", finished.put_nowait, watch)
    await runtime.deploy(pod("default.web-1-0"))

    jobs.start(Run("stop", StopPod("web-1-0", 0, "Timeout", "default")))

    async with asyncio.timeout(5):
        assert (await finished.get()).error == ""
    assert list(await runtime.list()) == []


async def test_nothing_is_told_before_the_runtime_has_listed_its_pods() -> None:
    """A pod that is ended right after the agent's start is not told as if nothing else ran: that pods are missing would
    have their leases given up, and them placed elsewhere."""
    runtime = MockRuntime()
    told: asyncio.Queue[Any] = asyncio.Queue()
    watch = PodWatch(runtime, NodeId(bytes(32)), "127.0.0.1", told.put_nowait, lambda _counted: None)
    finished: asyncio.Queue[Any] = asyncio.Queue()
    jobs = PodJobs(runtime, "mesh", "node", finished.put_nowait, watch)
    for name in ("web-1-0", "web-1-1"):
        await runtime.deploy(pod(f"default.{name}", labels={LABEL_WORKLOAD: "deployment/default/web"}))

    jobs.start(Run("stop", StopPod("web-1-0", 0, "Timeout", "default")))

    async with asyncio.timeout(5):
        await finished.get()
        assert [report.pod for report in (await told.get()).replicas] == ["default.web-1-1"]


class Flaky(MockRuntime):
    """An engine whose list cannot be read now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []

    async def list(self) -> Sequence[PodStatus]:
        """As `Runtime.list`."""
        if self.failures:
            raise self.failures.pop()
        return await super().list()


@pytest.mark.parametrize(
    "failure", [OSError(errno.EMFILE, "too many open files"), RuntimeFailure(FailureReason.TIMEOUT, "podman hangs")]
)
async def test_an_event_whose_pods_cannot_be_read_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """The pod is gone, and no other event follows: the list is read again until it can be."""
    monkeypatch.setattr("agent.pods.LOOK_AGAIN_S", 0.0)
    runtime = Flaky()
    told: asyncio.Queue[Any] = asyncio.Queue()
    watch = PodWatch(runtime, NodeId(bytes(32)), "127.0.0.1", told.put_nowait, lambda _counted: None)
    await runtime.deploy(pod("default.web-1-0"))
    await watch.start()
    async with asyncio.timeout(5):
        while not (await told.get()).replicas:
            pass
        runtime.failures = [failure, failure]
        await runtime.remove("default.web-1-0")
        while (await told.get()).replicas:
            pass
    await watch.close()


class Busy(MockRuntime):
    """An engine whose commands end when they are told to, and say when they begin."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.ended = asyncio.Event()

    async def exec(
        self, pod_id: str, container: str, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0
    ) -> ExecResult:
        """As `Runtime.exec`."""
        self.begun.put_nowait((pod_id, argv[0]))
        if argv[0] == "drain":
            await self.ended.wait()
        return ExecResult(0, b"", b"")


class Hooked:
    """A caretaker of pods whose hooks take long, and as many of these under way as may be at once."""

    def __init__(self) -> None:
        self.runtime = Busy()
        self.counted: list[Observed] = []
        self.caretaker = Caretaker(self.runtime, "127.0.0.1", lambda: 0.0, lambda: None, self.counted.append)
        self.holders: list[asyncio.Task[float]] = []
        self.left = asyncio.Event()

    async def run(self, pod_id: str, care: ContainerCare) -> None:
        """Start a pod, and look after it."""
        await self.runtime.deploy(pod(pod_id, labels={LABEL_CARE: PodCare({"main": care}).encode()}))
        self.caretaker.follow({each.pod_id: each for each in await self.runtime.list()})

    async def leave(self, pod_id: str, grace_s: float) -> float:
        """As `PodWatch.leave`."""
        self.left.set()
        if grace_s:
            return await self.caretaker.before_stop(pod_id, grace_s)
        self.caretaker.skip_hooks(pod_id)
        return 0.0

    async def hold(self) -> None:
        """End as many pods as hooks may be under way at once."""
        for number in range(HOOK_COMMANDS_MAX):
            await self.run(f"p{number}", ContainerCare(pre_stop=Exec(("drain",))))
            self.holders.append(asyncio.create_task(self.caretaker.before_stop(f"p{number}", 600.0)))
            await self.runtime.begun.get()

    async def let_go(self) -> list[float]:
        """Let all hooks end; the grace that each left."""
        self.runtime.ended.set()
        return await asyncio.gather(*self.holders)


async def test_a_hook_that_gets_no_turn_takes_no_more_than_its_grace(caplog: pytest.LogCaptureFixture) -> None:
    """The wait for other pods' hooks is part of the grace: the hook has failed when that is over, and never begins."""
    made = Hooked()
    async with asyncio.timeout(10):
        await made.hold()
        await made.run("late", ContainerCare(pre_stop=Exec(("drain",))))

        assert await made.caretaker.before_stop("late", 0.05) == LEAST_GRACE_S

        assert [each.labels["result"] for each in made.counted] == ["failed"]
        assert "pod late failed: no turn within 0.05 s" in caplog.text
        assert all(590 < left_s <= 600 for left_s in await made.let_go())
    assert made.runtime.begun.empty()
    assert [each.labels["result"] for each in made.counted[1:]] == ["ok"] * HOOK_COMMANDS_MAX


async def test_a_hook_ends_with_its_grace_even_where_the_engine_hangs() -> None:
    """An engine that keeps to no time limit holds no pod's end up, and the next hook gets its turn."""
    made = Hooked()
    async with asyncio.timeout(10):
        for number in range(HOOK_COMMANDS_MAX + 1):
            await made.run("stuck", ContainerCare(pre_stop=Exec(("drain",))))
            assert await made.caretaker.before_stop("stuck", 0.01) == LEAST_GRACE_S
            assert made.runtime.begun.qsize() == number + 1
            await made.runtime.remove("stuck")
            made.caretaker.follow({})
    assert [each.labels["result"] for each in made.counted] == ["failed"] * (HOOK_COMMANDS_MAX + 1)


async def test_hooks_that_take_long_keep_no_probe_waiting() -> None:
    """However many pods end at once: a container that runs is asked whether it lives."""
    made = Hooked()
    async with asyncio.timeout(10):
        await made.hold()

        await made.run("live", ContainerCare((ProbeSpec("liveness", Exec(("alive",))),)))

        assert await made.runtime.begun.get() == ("live", "alive")
        await made.let_go()
    made.caretaker.close()


@pytest.mark.parametrize("in_time", [True, False])
async def test_a_hook_runs_once_however_often_its_pods_end_is_ordered(*, in_time: bool) -> None:
    """A later order with less time waits for the hook that is under way, as long as it says, and begins no other."""
    made = Hooked()
    async with asyncio.timeout(10):
        await made.run("drained", ContainerCare(pre_stop=Exec(("drain",))))
        both: Any = made
        ending = Ending(made.runtime, both, "drained", 600.0)
        assert await made.runtime.begun.get() == ("drained", "drain")
        made.left.clear()

        ending.hurry(60.0 if in_time else 0.05)

        await made.left.wait()
        assert [each.pod_id for each in await made.runtime.list()] == ["drained"]
        if in_time:
            made.runtime.ended.set()
        await ending.gone()
    assert made.runtime.begun.empty()
    assert [each.labels["result"] for each in made.counted] == ["ok" if in_time else "failed"]


async def test_a_pod_that_is_ended_sooner_waits_for_no_turn() -> None:
    """A later order without any grace skips the hook that still waits, and the hook never begins."""
    made = Hooked()
    async with asyncio.timeout(10):
        await made.hold()
        await made.run("late", ContainerCare(pre_stop=Exec(("drain",))))
        both: Any = made
        ending = Ending(made.runtime, both, "late", 600.0)
        await made.left.wait()

        ending.hurry(0)

        await ending.gone()
        assert "late" not in [each.pod_id for each in await made.runtime.list()]
        await made.let_go()
    assert made.runtime.begun.empty()
