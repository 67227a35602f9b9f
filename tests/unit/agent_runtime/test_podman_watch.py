"""How the podman engine keeps its pods running although podman or the machine fails it, over a podman in memory."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agent.runtime.command import CallResult, call
from agent.runtime.contract import ContainerState, EventKind, FailureReason, PodSpec, RuntimeFailure
from agent.runtime.hub import PidWatch
from agent.runtime.podman import PodmanRuntime
from agent.runtime.podman_setup import PodmanSettings

pytestmark = pytest.mark.asyncio

DONE = CallResult(0, b"", b"")
BUSY = CallResult(125, b"", b"Error: cannot kill: device or resource busy")
GONE_PID = 2**22 + 1
"""More than Linux gives to any process."""
TIMED_OUT = RuntimeFailure(FailureReason.TIMEOUT, "'podman' did not end and was killed")


class Images:
    """Every image is here."""

    async def obtain(self, spec: PodSpec, _progress: object) -> Mapping[str, str]:
        """As `ImageStore.obtain`."""
        return {str(item["name"]): "img" for item in spec.pod["spec"]["containers"]}


class Podman(PodmanRuntime):
    """The engine over a podman whose containers are entries of a dictionary, and which fails as `answer` says."""

    def __init__(self, base: Path) -> None:
        super().__init__(PodmanSettings(Path(base / "s"), base / "d", base / "i", base / "l"))
        for folder in (self.setup.files, self.setup.memory_volumes, self.setup.disk_volumes):
            folder.mkdir(parents=True)
        self.images = Images()  # type: ignore[assignment]
        self.containers: dict[str, dict[str, Any]] = {}
        self.words: list[str] = []
        self.answer: Callable[[str], CallResult | None] = lambda _words: None
        self.stuck: tuple[str, ...] = ()
        """How the calls begin that never end."""
        self._heard = asyncio.Condition()

    def begin(self) -> None:
        """What `prepare` does last."""
        self._begin_watch()

    async def _podman(self, words: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CallResult:
        self.words.append(" ".join(words))
        async with self._heard:
            self._heard.notify_all()
        if self.words[-1].startswith(self.stuck):
            await asyncio.Event().wait()
        return self.answer(self.words[-1]) or self._do(list(words), stdin)

    def _do(self, words: list[str], stdin: bytes) -> CallResult:
        if words[0] == "ps":
            return CallResult(0, json.dumps(list(self.containers.values())).encode(), b"")
        if words[:2] == ["kube", "play"]:
            metadata = json.loads(stdin)["metadata"]
            name = metadata["name"]
            entry = {"Id": f"c-{name}", "Pod": name, "Names": [f"{name}-main"], "Labels": metadata["labels"]}
            self.containers[f"c-{name}"] = {**entry, "State": "running"}
        if words[0] == "start":
            self.containers[words[1]]["State"] = "running"
        if words[:2] == ["pod", "rm"]:
            self.containers.pop(f"c-{words[-1]}", None)
        return DONE

    def end(self, pod_id: str) -> None:
        """The pod's container ends, and its pidfd tells."""
        self.containers[f"c-{pod_id}"].update(State="exited", ExitCode=1)
        self._process_ended(0)

    async def until(self, words: str, times: int = 1) -> None:
        """Wait for calls of podman."""
        async with asyncio.timeout(5), self._heard:
            await self._heard.wait_for(lambda: sum(each.startswith(words) for each in self.words) >= times)


@pytest_asyncio.fixture
async def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Podman]:
    """An engine that watches nothing yet, and tries a removal once."""
    monkeypatch.setattr("agent.runtime.podman_removal.CLEAN_AGAIN_S", ())
    made = Podman(tmp_path)
    yield made
    await made.close()


def pod(pod_id: str) -> PodSpec:
    """A pod of one container named `main`."""
    return PodSpec(pod_id, {}, {"spec": {"containers": [{"name": "main", "image": "img", "command": ["x"]}]}})


async def leave_behind(podman: Podman, *pod_ids: str) -> None:
    """Deploy pods and try in vain to remove them; from then on podman would remove them again."""
    for pod_id in pod_ids:
        await podman.deploy(pod(pod_id))
    podman.answer = lambda words: BUSY if words.startswith("pod") else None
    for pod_id in pod_ids:
        with pytest.raises(RuntimeFailure):
            await podman.remove(pod_id)
    podman.answer = lambda _words: None
    podman.words.clear()


async def test_a_pod_that_cannot_be_removed_keeps_no_other_from_being_started_again(podman: Podman) -> None:
    """Neither by its failure nor by the time that each attempt takes."""
    podman.begin()
    for pod_id in ("bad", "good", "fine"):
        await podman.deploy(pod(pod_id))
    podman.answer = lambda words: BUSY if words.startswith("pod") and words.endswith("bad") else None
    with pytest.raises(RuntimeFailure, match="busy"):
        await podman.remove("bad")
    podman.end("good")
    await podman.until("start c-good")
    podman.stuck = ("pod stop -t 0 bad",)
    podman.words.clear()
    podman._process_ended(0)
    await podman.until("pod stop -t 0 bad")
    podman.end("fine")
    await podman.until("start c-fine")


async def test_what_could_not_be_removed_is_removed_later(podman: Podman) -> None:
    """The watch tries again, one pod after the other, whichever of them fails."""
    await leave_behind(podman, "a", "b")
    podman.answer = lambda words: BUSY if words.startswith("pod") and words.endswith("a") else None
    podman.begin()
    await podman.until("pod rm -f -t 0 b")


async def test_a_pod_that_is_being_removed_is_not_started_again(podman: Podman) -> None:
    """Its container ends in the middle of a removal that is tried again; once it is gone it is listed no more, and
    another may take its name."""
    await leave_behind(podman, "a")

    def ends(words: str) -> None:
        if words.startswith("pod stop"):
            podman.end("a")

    podman.answer = ends
    podman.end("a")
    assert await podman._tend()
    assert "start c-a" not in podman.words
    podman.begin()
    podman._process_ended(0)
    await podman.until("pod rm -f -t 0 a")
    before = podman.words.count("ps -a --format json")
    await podman.until("ps -a", before + 1)

    assert "start c-a" not in podman.words
    await podman.deploy(pod("a"))


async def test_a_start_that_left_something_behind_ends_no_later_start_of_the_same_pod(podman: Podman) -> None:
    """What is left is removed before the new start, not after it; if that fails, the start says why."""

    def hang(words: str) -> CallResult | None:
        if words.startswith(("kube play", "pod")):
            raise TIMED_OUT
        return None

    podman.answer = hang
    for _ in range(2):
        with pytest.raises(RuntimeFailure) as caught:
            await podman.deploy(pod("web"))
        assert caught.value.reason is FailureReason.TIMEOUT
    assert sum(words.startswith("kube play") for words in podman.words) == 1, "nothing starts beside a leftover"

    podman.answer = lambda _words: None
    await podman.deploy(pod("web"))
    podman.words.clear()
    podman.begin()
    podman.end("web")
    await podman.until("start c-web")
    assert not [words for words in podman.words if words.startswith("pod")]


async def test_a_pod_whose_removal_failed_may_be_deployed_anew(podman: Podman) -> None:
    """It is listed still, but nobody wants it any more."""
    await leave_behind(podman, "web")
    await podman.deploy(pod("web"))
    assert [words.split()[0] for words in podman.words] == ["pod", "pod", "kube"]


async def test_a_machine_that_cannot_fork_now_does_not_end_the_watch(podman: Podman) -> None:
    """The container is started again by the next attempt."""
    errors = [OSError(errno.ENOMEM, "Cannot allocate memory"), TIMED_OUT]

    def fail(words: str) -> CallResult | None:
        if errors and words.startswith("ps"):
            raise errors.pop()
        return None

    await podman.deploy(pod("web"))
    podman.answer = fail
    podman.begin()
    podman.end("web")
    await podman.until("start c-web")


async def test_a_podman_that_fails_is_asked_again_after_a_pause(
    podman: Podman, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a restart has been due."""
    monkeypatch.setattr("agent.runtime.podman.RECHECK_S", (0.05, 3600.0))
    await podman.deploy(pod("web"))
    podman.end("web")
    await podman._refresh()
    assert podman._table.next_start_s() == 0
    podman.words.clear()
    podman.answer = lambda words: BUSY if words.startswith("ps") else None
    podman.begin()
    await podman.until("ps", times=2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await podman.until("ps", times=3)


async def test_a_call_that_the_machine_cannot_make_is_a_failure_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the contract says: `RuntimeFailure` and nothing else."""

    async def fail(*_argv: str, **_how: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fail)
    with pytest.raises(RuntimeFailure, match="temporarily unavailable") as caught:
        await call(["podman", "ps"], timeout_s=1)
    assert caught.value.reason is FailureReason.ENGINE_ERROR


async def test_a_process_for_which_no_descriptor_is_left_is_watched_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither taken for gone, nor does the caller fail."""
    ended: list[int] = []
    watch = PidWatch(ended.append)
    with monkeypatch.context() as poor:
        poor.setattr(os, "pidfd_open", _no_descriptor)
        watch.watch([os.getpid()])
    turn = asyncio.Event()
    asyncio.get_running_loop().call_soon(turn.set)  # after whatever the look would have told
    await turn.wait()
    assert not watch._descriptors
    watch.watch([os.getpid()])
    assert list(watch._descriptors) == [os.getpid()]
    assert not ended
    watch.close()


def _no_descriptor(_pid: int) -> int:
    raise OSError(errno.EMFILE, "Too many open files")


async def test_a_restart_that_was_seen_before_the_container_ran_is_told_when_it_runs(podman: Podman) -> None:
    """A look during `podman start` counts the restart already; listeners must hear of the end of the wait, too."""
    events = podman.events()
    await podman.deploy(pod("web"))
    podman.begin()
    podman.stuck = ("start",)
    podman.end("web")
    await podman.until("start c-web")
    await podman._refresh()
    podman.containers["c-web"]["State"] = "running"
    await podman._refresh()
    async with asyncio.timeout(5):
        heard = [await anext(events) for _ in range(4)]
    told = [(event.kind, event.status.containers[0].state) for event in heard]
    assert told == [
        (EventKind.STARTED, ContainerState.RUNNING),
        (EventKind.EXITED, ContainerState.WAITING),
        (EventKind.RESTARTED, ContainerState.WAITING),
        (EventKind.STARTED, ContainerState.RUNNING),
    ]


async def test_a_process_that_is_gone_is_told_once(podman: Podman, monkeypatch: pytest.MonkeyPatch) -> None:
    """While podman goes on listing it as running, it is asked again at the pace of the rechecks, not at once."""
    monkeypatch.setattr("agent.runtime.podman.RECHECK_S", (0.05, 3600.0))
    await podman.deploy(pod("web"))
    podman.containers["c-web"]["Pid"] = GONE_PID
    podman.begin()
    await podman.until("ps", times=3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await podman.until("ps", times=4)
    assert podman._pids.has_gone


async def test_a_removal_goes_on_when_the_stop_before_it_does_not_end(podman: Podman) -> None:
    """As it does where conmon was killed: the stop only makes the removal faster."""

    def hang(words: str) -> CallResult | None:
        if words.startswith("pod stop"):
            raise TIMED_OUT
        return None

    await podman.deploy(pod("web"))
    podman.answer = hang
    await podman.remove("web")
    assert not podman.containers


async def test_the_end_of_a_container_is_written_down_where_its_conmon_was_killed(podman: Podman) -> None:
    """Conmon's own word is never replaced, and nothing is said of what runs, or runs anew."""
    setup = podman.setup
    place, exits = setup.runroot / "overlay-containers/c1/userdata", setup.tmp / "exits"
    for folder in (place, exits):
        folder.mkdir(parents=True)

    def ends(conmon: int, process: int, listed: int = GONE_PID) -> list[str]:
        (place / "conmon.pid").write_text(str(conmon))
        (place / "pidfile").write_text(f"{process}\n")
        setup.end_abandoned("c1", listed)
        return [path.read_text() for path in exits.iterdir()]

    assert ends(os.getpid(), GONE_PID) == [], "conmon is about to write it"
    assert ends(GONE_PID, os.getpid(), os.getpid()) == [], "it runs on without its conmon"
    assert ends(GONE_PID, GONE_PID + 1) == [], "another run than the one that was listed"
    assert ends(GONE_PID, GONE_PID) == ["137"]
    (exits / "c1").write_text("0")
    assert ends(GONE_PID, GONE_PID) == ["0"]
    setup.end_abandoned("removed meanwhile", GONE_PID)
    assert not list(setup.tmp.glob(".*"))


async def test_every_look_asks_for_ends_that_nobody_wrote_down(podman: Podman, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those containers that the look before listed as running."""
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(podman.setup, "end_abandoned", lambda container, pid: asked.append((container, pid)))
    await podman.deploy(pod("web"))
    podman.containers["c-web"]["Pid"] = GONE_PID
    await podman._refresh()
    assert asked == []
    await podman._refresh()
    assert asked == [("c-web", GONE_PID)]


async def test_the_right_to_start_is_asked_when_the_wait_for_the_host_is_over(podman: Podman) -> None:
    """A load of an image may hold the host for longer than the right lasts."""
    rights = [True]
    async with podman.settings.host_lock.exclusive(1):
        deployment = asyncio.create_task(podman.deploy(replace(pod("web"), may_start=lambda: rights[0])))
        await asyncio.wait([deployment], timeout=0.05)
        rights[0] = False
    with pytest.raises(RuntimeFailure) as caught:
        await deployment
    assert caught.value.reason is FailureReason.NOT_PERMITTED
    assert not [words for words in podman.words if words.startswith("kube play")]


async def test_a_start_that_lost_a_race_for_the_firewall_is_tried_again(podman: Podman) -> None:
    """Another engine of the host made netavark's chains in the same moment; what else fails is told at once."""
    chains = b"Error: netavark: code: 1, msg: iptables: Chain already exists."
    errors = [chains, b"Error: netavark: no such device", chains]

    def fail(words: str) -> CallResult | None:
        return CallResult(125, b"", errors.pop()) if errors and words.startswith("kube") else None

    podman.answer = fail
    with pytest.raises(RuntimeFailure, match="no such device"):
        await podman.deploy(pod("web"))
    assert [words.split()[0] for words in podman.words] == ["kube", "pod", "pod", "kube", "pod", "pod"]
    await podman.deploy(pod("web"))
    assert list(podman.containers) == ["c-web"]


async def test_the_right_to_start_is_asked_before_each_try(podman: Podman) -> None:
    """One that failed over a port may have taken all the time that there was."""
    rights = [True]

    def taken(words: str) -> CallResult | None:
        rights[0] = False
        return CallResult(125, b"", b"listen tcp4 :20001: bind: address already in use") if "kube" in words else None

    podman.answer = taken
    item = {"name": "main", "image": "img", "command": ["x"], "ports": [{"containerPort": 80, "hostPort": 0}]}
    spec = PodSpec("web", {}, {"spec": {"containers": [item]}}, may_start=lambda: rights[0])
    with pytest.raises(RuntimeFailure) as caught:
        await podman.deploy(spec)
    assert caught.value.reason is FailureReason.NOT_PERMITTED
    assert sum(words.startswith("kube play") for words in podman.words) == 1


async def test_a_pod_is_started_when_no_removal_of_it_is_under_way(podman: Podman) -> None:
    """The removal that the watch tries again would otherwise go on under the new pod."""
    await leave_behind(podman, "web")
    podman.stuck = ("pod rm",)
    podman.begin()
    podman._process_ended(0)
    await podman.until("pod rm")
    deployment = asyncio.create_task(podman.deploy(pod("web")))
    await asyncio.wait([deployment], timeout=0.1)
    assert [words for words in podman.words if words.startswith(("pod rm", "kube"))] == ["pod rm -f -t 0 web"]
    podman.stuck = ()
    assert podman._removing
    podman._removing.cancel()
    await deployment
    assert [words for words in podman.words if words.startswith(("pod", "kube"))][-1].startswith("kube play")
