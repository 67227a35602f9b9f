"""A whole agent that also says on its standard output what it sees, and takes a few commands: for `bench.membership`.

It says `up NAME`, `down NAME` and `heard TEXT`, one line each, as it happens. Commands, one per line of standard input:
`join BASE64` (the signed card of a member to join through) and `say TEXT` (publish an event).
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from agent import files as node_files
from agent import heap
from agent.daemon import Agent
from agent.logs import set_up_logging
from agent.privacy import keep_memory_private
from beemesh.events import EmitEvent, EventHeard, MemberDown, MemberUp, PutIntent
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId, short, ulid
from beemesh.scheduling.messages import Event


class WatchedAgent(Agent):
    """The agent as it is, with an eye on its notifications."""

    async def run(self) -> None:
        """See `Agent.run`."""
        self._commands = b""
        os.set_blocking(0, False)
        asyncio.get_running_loop().add_reader(0, self._read)
        await super().run()

    def _read(self) -> None:
        part = os.read(0, 65_536)
        if not part:  # whoever watched is gone
            asyncio.get_running_loop().remove_reader(0)
            self._stop.set()
        *lines, self._commands = (self._commands + part).split(b"\n")
        for line in lines:
            word, _, rest = line.partition(b" ")
            if word == b"join":
                self._shell.event(PutIntent(msgspec.msgpack.decode(base64.b64decode(rest), type=Signed)))
            elif word == b"say":
                wall_ms = self._clock.now().wall_ms
                self_id = self._files.membership.node_id
                told = Event(ulid(wall_ms, os.urandom(10)), self_id, "Pending", wall_ms, reason=rest.decode())
                self._shell.event(EmitEvent(told))

    def _observe(self, event: Any) -> None:
        super()._observe(event)
        match event:
            case MemberUp(node_id=node_id):
                self._say(f"up {self._name(node_id)}")
            case MemberDown(node_id=node_id):
                self._say(f"down {self._name(node_id)}")
            case EventHeard(event=told):
                self._say(f"heard {told.reason}")

    def _name(self, node_id: NodeId) -> str:
        card = self._composition.roster.member(node_id)
        return card.name if card else short(node_id)

    @staticmethod
    def _say(line: str) -> None:
        os.write(1, line.encode() + b"\n")


def main() -> None:
    """As `agent.daemon.run_agent`, for the configuration in the folder that is named."""
    if len(sys.argv) != 2:
        print("no benchmark of its own: bench/membership.py starts it")
        return
    keep_memory_private()
    heap.use_one_arena()
    loaded = node_files.load(Path(sys.argv[1]))
    set_up_logging(loaded.settings.log)
    asyncio.run(WatchedAgent(loaded).run())


if __name__ == "__main__":
    main()
