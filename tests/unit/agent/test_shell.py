"""The shell while the disk refuses writes, and when there is room again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from agent.clock import Clock
from agent.shell import PROBE, Shell
from agent.store import Store, StoreFailure
from beemesh.effects import Erase, Save


class Disk:
    """A store that refuses writes as long as it is full."""

    def __init__(self) -> None:
        self.full = False
        self.asked: list[Save | Erase] = []

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
            turn = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(turn.set_result, None)
            await turn  # what the disk answered has been told by then
            errors.append(shell.store_error)
        return errors, disk.asked

    errors, asked = asyncio.run(story())

    assert errors == ["", *["state.db: database or disk is full"] * 2, "", ""]
    assert asked == [Save("table", b"key", b"value"), PROBE, PROBE]
