"""The shell while the disk refuses writes or is slow, and when there is room again."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from agent.clock import Clock
from agent.shell import PROBE, REFUSAL, Shell
from agent.store import Store, StoreFailure
from agent.timers import Timers
from beemesh import write_queue
from beemesh.effects import Effects, Erase, Flush, Notify, Now, Reply, Run, Save
from beemesh.events import ClockAgreed, StopPod, Submit, Submitted
from beemesh.scheduling.messages import GetLease
from beemesh.write_queue import WriteQueue
from simulator.operator import deployment, grant_operator, submission
from simulator.world import World


class Disk:
    """A store that refuses writes as long as it is full."""

    def __init__(self) -> None:
        self.full = False
        self.asked: list[Save | Erase] = []

    def owes(self, _table: str, _key: bytes) -> bool:
        """Nobody asks."""
        return False

    def write(self, writes: Iterable[Save | Erase]) -> asyncio.Future[None]:
        """Answer at once."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked += writes
        if self.full:
            done.set_exception(StoreFailure("state.db: database or disk is full"))
        else:
            done.set_result(None)
        return done


def test_room_is_noticed_although_nothing_is_saved() -> None:
    """A node that takes no work for want of room has nothing to save: it tries by itself, and only while it must."""

    async def story() -> tuple[list[str], list[Save | Erase]]:
        disk = Disk()
        shell = Shell(cast(Any, None), cast(Store, disk), cast(Clock, None), lambda run: None, lambda event: None)
        errors = []
        for full in (False, True, True, False, False):
            disk.full = full
            if full and not shell.store_error:
                shell.carry([Save("table", b"key", b"value")])
            shell.try_store()
            await turn()  # what the disk answered has been told by then
            errors.append(shell.store_error)
        return errors, disk.asked

    errors, asked = asyncio.run(story())

    assert errors == ["", *["state.db: database or disk is full"] * 2, "", ""]
    assert asked == [Save("table", b"key", b"value"), PROBE, PROBE]


async def turn() -> None:
    """Let whoever waits for something that is done hear of it."""
    passed = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(passed.set_result, None)
    await passed


class SlowDisk:
    """A store that answers when told to."""

    def __init__(self) -> None:
        self.queue: WriteQueue[asyncio.Future[None]] = WriteQueue()
        self.owes = self.queue.owes

    def write(self, writes: Iterable[Save | Erase]) -> asyncio.Future[None]:
        """Wait."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queue.add(writes, done)
        return done

    async def answer(self, *, refuses: bool = False) -> None:
        """Make one attempt, and let everybody hear of it."""
        self.queue.begin()
        for done in self.queue.end(is_durable=not refuses):
            if refuses:
                done.set_exception(StoreFailure("full"))
            else:
                done.set_result(None)
        await turn()


class Net:
    """Keeps what leaves."""

    def __init__(self) -> None:
        self.replies: list[int] = []
        self.refused: list[tuple[int, str]] = []

    def reply(self, effect: Reply) -> None:
        """Keep its token."""
        self.replies.append(effect.token)

    def refuse(self, token: int, why: str) -> None:
        """Keep it."""
        self.refused.append((token, why))

    def __getattr__(self, _name: str) -> Any:
        """All else goes nowhere."""
        return lambda *_: None


def shell_on(
    disk: SlowDisk, jobs: list[Run], observe: Callable[[Any], None] = lambda _event: None
) -> tuple[Shell, Net]:
    """A shell without a node."""
    shell = Shell(cast(Any, None), cast(Store, disk), cast(Clock, None), jobs.append, observe)
    net = Net()
    shell.connect(cast(Any, net))
    return shell, net


def reply(token: int) -> Reply:
    """Any answer."""
    return Reply(token, GetLease("lease/x/0"))


SAVE, FLUSH = Save("leases", b"key", b"value"), Flush("leases", b"key")


def test_who_relies_on_an_earlier_save_waits_for_it_and_nobody_else() -> None:
    """A lease is renewed without a write, but not before its grant is on the disk; other answers wait for nothing."""

    async def story() -> None:
        disk = SlowDisk()
        shell, net = shell_on(disk, [])
        shell.carry([SAVE, reply(1)])
        shell.carry([FLUSH, reply(2)])
        shell.carry([Flush("leases", b"another"), reply(3)])
        shell.carry([reply(4)])
        assert net.replies == [3, 4]
        await disk.answer()
        assert net.replies == [3, 4, 1, 2]
        shell.carry([FLUSH, reply(5)])
        assert net.replies[4:] == [5]  # what the disk has costs nothing

    asyncio.run(story())


def test_what_was_refused_is_promised_to_nobody_until_it_is_written() -> None:
    """Who asks again is refused as well while the disk refuses, though memory has it, and hears so at once: its place
    is free for others. With room the next attempt writes it, whoever asks for it. What needs no disk goes on."""

    async def story() -> None:
        disk, jobs = SlowDisk(), list[Run]()
        shell, net = shell_on(disk, jobs)
        for number, effects in enumerate([[SAVE, reply(0)], [FLUSH, reply(1)], [FLUSH, reply(2)]]):
            shell.carry(cast(Effects, effects))
            assert net.refused == [(token, REFUSAL) for token in range(number)]
            await disk.answer(refuses=True)
        assert (net.replies, shell.store_error) == ([], "full")
        shell.carry([Run("stop", StopPod("web", 0)), reply(3)])
        assert (len(jobs), net.replies) == (1, [3])  # it waits for no disk
        shell.try_store()
        assert disk.queue.owes("leases", b"key")
        await disk.answer()
        shell.carry([FLUSH, reply(4)])
        assert (net.replies, shell.store_error) == ([3, 4], "")

    asyncio.run(story())


def test_what_a_node_notices_is_told_whatever_the_disk_does() -> None:
    """A member that is shut out loses its streams at once, also while the disk refuses the record that says so; that
    something is accepted is told once it is saved, and never where it is not."""

    async def story() -> None:
        disk, seen = SlowDisk(), list[Any]()
        shell, _ = shell_on(disk, [], seen.append)
        noticed, accepted = ClockAgreed(1), Submitted(1, True)
        shell.carry([SAVE, Notify(accepted), Notify(noticed)])
        assert seen == [noticed]
        await disk.answer(refuses=True)
        shell.carry([SAVE, Notify(accepted)])
        await disk.answer()
        assert seen == [noticed, accepted]

    asyncio.run(story())


class Applying:
    """A lone node on a real store whose disk may be full."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World(1, 1)
        grant_operator(self.world)
        self.world.start_all()
        self.world.run_for(5)
        self.store = Store(path)
        self.full = False
        self.heard: list[int] = []
        commit = self.store._commit

        def commits(writes: list[Save | Erase]) -> None:
            if self.full:
                raise sqlite3.OperationalError("database or disk is full")
            commit(writes)

        monkeypatch.setattr(self.store, "_commit", commits)
        monkeypatch.setattr(Timers, "set", lambda *_: None)
        clock = cast(Clock, self)
        self.shell = Shell(self.world.node(0).node, self.store, clock, lambda run: None, self._observe)
        self.shell.connect(cast(Any, Net()))

    def now(self) -> Now:
        """The machine's clock."""
        return self.world.now_of(self.world.machines[0])

    def _observe(self, event: Any) -> None:
        if isinstance(event, Submitted) and event.accepted:
            self.heard.append(event.token)

    async def hand_in(self, command: Submit) -> list[int]:
        """(tokens of what was accepted so far), once the disk has answered."""
        self.shell.event(command)
        if self.store._flusher is not None:
            await self.store._flusher
        return self.heard


def test_what_a_full_disk_refused_is_accepted_when_it_is_saved_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator who applies again, or deletes, while the disk is full is told nothing else than at first; what is
    accepted after that is on the disk."""

    async def story() -> None:
        place = Applying(tmp_path / "state.db", monkeypatch)
        _, command = submission(place.world, 0, deployment("hello", 1), token=0)
        key = msgspec.msgpack.decode(command.record.body)["key"]
        gone = place.world.sign(place.world.operator, "tombstone", key, None, seq=2)
        place.full = True
        for token in (1, 2):
            assert await place.hand_in(dataclasses.replace(command, token=token)) == []
        place.full = False
        assert await place.hand_in(dataclasses.replace(command, token=3)) == [3]
        place.full = True
        for token in (4, 5):
            assert await place.hand_in(Submit(token, gone)) == [3]
        place.full = False
        assert await place.hand_in(Submit(6, gone)) == [3, 6]
        assert dict(place.store.rows("intents"))[key.encode()] == msgspec.msgpack.encode(gone)
        assert len(list(place.store.rows("manifests"))) == 1
        await place.store.close()

    asyncio.run(story())


def test_what_a_full_disk_refused_is_saved_when_there_is_room_though_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent looks for room by itself, and tries once more when it ends."""

    async def story(*, by_closing: bool) -> None:
        path = tmp_path / f"{by_closing}.db"
        place = Applying(path, monkeypatch)
        _, command = submission(place.world, 0, deployment("hello", 1), token=1)
        place.full = True
        await place.hand_in(command)
        place.full = False
        if not by_closing:
            place.shell.try_store()
        await place.store.close()
        again = Store(path)
        assert len(list(again.rows("manifests"))) == 1
        assert len(list(again.rows("shares"))) == 1
        await again.close()

    asyncio.run(story(by_closing=False))
    asyncio.run(story(by_closing=True))


def _group(chance: random.Random, number: int) -> list[Save | Erase]:
    keys = [bytes([chance.randrange(4)]) for _ in range(chance.randrange(4))]
    return [Save("t", key, b"%d" % number) if chance.random() < 0.7 else Erase("t", key) for key in keys]


def _made(disk: dict[bytes, bytes], writes: Iterable[Save | Erase]) -> None:
    for write in writes:
        if isinstance(write, Save):
            disk[write.key] = write.value
        else:
            disk.pop(write.key, None)


@pytest.mark.parametrize("seed", range(30))
def test_a_disk_that_comes_and_goes_ends_with_what_was_written_last(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Whatever fails, is retried or given up, the disk holds after each good attempt what all groups until then wrote,
    in their order; and no row is said to be there that is not."""
    monkeypatch.setattr(write_queue, "QUEUE_WRITES_MAX", 12)
    monkeypatch.setattr(write_queue, "ATTEMPT_WRITES_MAX", 4)
    chance = random.Random(seed)
    queue: WriteQueue[int] = WriteQueue()
    disk: dict[bytes, bytes] = {}
    newest: dict[bytes, bytes] = {}
    after: list[dict[bytes, bytes]] = []
    under_way: list[Save | Erase] | None = None
    for _ in range(400):
        if chance.random() < 0.5:
            writes = _group(chance, len(after))
            queue.add(writes, len(after))
            _made(newest, writes)
            after.append(dict(newest))
        elif under_way is None:
            under_way = queue.begin() if queue.is_waited_for else None
        else:
            is_durable = chance.random() < 0.5
            if is_durable:
                _made(disk, under_way)
            tokens, under_way = queue.end(is_durable=is_durable), None
            if is_durable and tokens:
                assert disk == after[tokens[-1]]
        for key in (b"\0", b"\1", b"\2", b"\3"):
            assert queue.owes("t", key) or disk.get(key) == newest.get(key)
    if under_way is not None:
        queue.end(is_durable=False)
    queue.add((), -1)
    while queue.is_waited_for:
        _made(disk, queue.begin())
        queue.end(is_durable=True)
    assert disk == newest
    assert not any(queue.owes("t", bytes([key])) for key in range(4))


def test_failed_removals_are_bounded_and_failed_saves_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that turns over for weeks beside a full disk fills no memory."""
    monkeypatch.setattr(write_queue, "ERASES_OWED_MAX", 10)
    queue: WriteQueue[int] = WriteQueue()
    for number in range(100):
        queue.add([Erase("events", b"%d" % number), Save("intents", b"%d" % (number % 5), b"x")], number)
        queue.begin()
        queue.end(is_durable=False)

    assert queue.failed_rows == 15
    assert not queue.owes("events", b"0")
    assert all(queue.owes("intents", b"%d" % number) for number in range(5))
