"""What the agent does all along goes on after whatever breaks it."""

from __future__ import annotations

import asyncio
import errno
import fcntl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent import daemon, supervise, timers
from agent.daemon import Agent
from agent.lasting import start_lasting
from agent.timers import Timers

pytestmark = pytest.mark.asyncio


async def test_what_breaks_is_told_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A moment without descriptors ends nothing for good."""
    monkeypatch.setattr("agent.lasting.AGAIN_S", 0.0)
    tries: list[int] = []
    lives = asyncio.Event()

    async def work() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(errno.EMFILE, "too many open files")
        lives.set()
        await asyncio.Event().wait()

    task = start_lasting(work, "the watch")
    async with asyncio.timeout(5):
        await lives.wait()
    task.cancel()
    await asyncio.wait([task])

    assert [record.getMessage() for record in caplog.records] == ["the watch broke; it goes on in 0 s"] * 2
    assert "too many open files" in caplog.text
    assert task.cancelled()


async def test_work_that_is_done_is_done() -> None:
    """The preparation of an engine ends, and is not begun again."""
    tries: list[int] = []

    async def work() -> None:
        tries.append(1)

    async with asyncio.timeout(5):
        await start_lasting(work, "the preparation")
    assert tries == [1]


async def test_a_timer_that_breaks_ends_no_other_and_fires_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is done from time to time sets its next turn itself, and would be done never again."""
    now_s, fired = [100.0], list[str]()
    monkeypatch.setattr(timers, "boot_s", lambda: now_s[0])

    def fire(key: object) -> None:
        fired.append(str(key))
        if fired == ["bad"]:
            raise RuntimeError("a fault of ours")

    due = Timers(fire)
    due.set("bad", 101.0)
    due.set("good", 102.0)
    due.set("later", 103.0)
    for now_s[0] in (102.0, 103.0, 101.0 + timers.AGAIN_S, 102.0 + timers.AGAIN_S):
        due._wake()
    assert fired == ["bad", "good", "later", "bad"]
    due.set("next", 200.0)
    assert due._handle is not None
    due.close()

    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "a fault of ours" in caplog.text


async def test_nobody_is_answered_before_the_node_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node waits for at its start holds for the first that asks: a restarted one does not accept alone."""
    steps: list[str] = []

    async def opens(name: str, *_: Any) -> None:
        steps.append(name)

    async def closes(*_: Any) -> None:
        steps.append("close")

    def does(name: str) -> Any:
        return lambda *_: steps.append(name)

    agent = Agent.__new__(Agent)
    place: Any = agent
    place._settings = SimpleNamespace(listen=SimpleNamespace(gossip="127.0.0.1:7946"))
    place._files = SimpleNamespace(seeds=(), membership=SimpleNamespace(name="n1"))
    place._guarding = SimpleNamespace(take_over=does("take over"))
    place._composition = SimpleNamespace(node=SimpleNamespace(is_likely=None))
    place._shell = SimpleNamespace(datagram=None, start=does("start"), event=does("seeds"))
    place._metrics = SimpleNamespace(before_reading=lambda _: None)
    place._network = SimpleNamespace(use_socket=lambda _: None)
    place._streams = SimpleNamespace(start=lambda *_: opens("streams"))
    place._tls = SimpleNamespace(stay_valid=None)
    place._stop = asyncio.Event()
    place._stop.set()
    monkeypatch.setattr(Agent, "_restore", does("restore"))
    monkeypatch.setattr(Agent, "_look_at_resources", does("resources"))
    monkeypatch.setattr(Agent, "_start_api", lambda _: opens("api"))
    monkeypatch.setattr(Agent, "_close", closes)
    monkeypatch.setattr(daemon, "UdpSocket", lambda *_: SimpleNamespace(start=does("udp")))
    monkeypatch.setattr(daemon, "start_lasting", lambda *_: None)

    await agent.run()

    assert steps == ["take over", "restore", "streams", "start", "seeds", "resources", "udp", "api", "close"]


async def test_who_looks_whether_a_supervisor_runs_keeps_none_from_starting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It holds the lock for a moment; a supervisor that starts just then waits for that moment."""
    paths = supervise.ServicePaths(tmp_path)
    paths.lock.write_text("1")
    ran: list[bool] = []
    monkeypatch.setattr(supervise.Supervisor, "run", lambda _: ran.append(True) or 0)
    with paths.lock.open("r+") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert supervise.running_pid(paths) is None  # nor is whoever looks taken for one that runs
        monkeypatch.setattr("agent.supervise.time.sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
        assert supervise.main([str(tmp_path), "true"]) == 0
    assert ran == [True]
