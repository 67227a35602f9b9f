"""Datagrams and streams behind the shell's one interface, with names resolved off the event loop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections import OrderedDict
from functools import partial
from typing import Any

import msgspec

from agent.shell import Shell
from agent.transport.streams import Streams
from agent.transport.udp import UdpSocket
from beemesh.effects import Reply
from beemesh.errors import BeemeshError, Unreachable
from beemesh.ids import NodeId
from beemesh.outward import Ask, Tell, Warm

log = logging.getLogger("beemesh.network")

RESOLVED_S = 60.0
NAMES_MAX = 4_096
"""Names whose addresses are kept; past it those are forgotten that nothing was sent to for longest."""

LOOK_UPS_MAX = 4
"""Names looked up at once: asyncio's pool has five threads on a single core, and one is left for other work."""

OWN_TOKENS_START = 1 << 50
"""Tokens of questions that the API puts to this node itself, apart from those of peers."""


class AgentNetwork:
    """See `agent.shell.Network`; also lets the API ask any node, this one included."""

    def __init__(self, shell: Shell, streams: Streams) -> None:
        self._shell = shell
        self._streams = streams
        self._udp: UdpSocket | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._own: dict[int, asyncio.Future[msgspec.Struct]] = {}
        self._next_own = OWN_TOKENS_START
        self._names: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._resolving: set[str] = set()

    def use_socket(self, udp: UdpSocket) -> None:
        """Send datagrams through this socket."""
        self._udp = udp

    def transmit(self, address: tuple[str, int], data: bytes) -> None:
        """See `Network.transmit`."""
        host = self._resolved(address[0])
        if host is not None and self._udp is not None:
            self._udp.send((host, address[1]), data)

    def _resolved(self, host: str) -> str | None:
        """The IP address of a host; None while a name is being looked up (that datagram is lost, the next is not)."""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            return host
        known = self._names.get(host)
        if known is not None:
            self._names.move_to_end(host)
            if known[1] > asyncio.get_running_loop().time():
                return known[0]
        if host not in self._resolving and len(self._resolving) < LOOK_UPS_MAX:
            self._resolving.add(host)
            self._spawn(self._look_up(host))
        return known[0] if known is not None else None

    async def _look_up(self, host: str) -> None:
        try:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host, None)
            self._names[host] = (str(found[0][4][0]), loop.time() + RESOLVED_S)
            self._names.move_to_end(host)
            while len(self._names) > NAMES_MAX:
                self._names.popitem(last=False)
        except (OSError, ValueError) as error:  # ValueError: no resolver takes such a name
            log.debug("cannot resolve %s: %s", host, error)
        finally:
            self._resolving.discard(host)

    def tell(self, effect: Tell) -> None:
        """See `Network.tell`."""
        self._spawn(self._tell(effect))

    async def _tell(self, effect: Tell) -> None:
        try:
            await self._streams.tell(effect.peer, effect.address, effect.message)
        except BeemeshError as error:
            log.debug("a message was lost: %s", error.message)

    def ask(self, effect: Ask) -> None:
        """See `Network.ask`."""
        done = partial(self._answered, effect)
        self._streams.post(effect.peer, effect.address, effect.message, effect.deadline_s, done)

    def _answered(self, effect: Ask, answer: msgspec.Struct | None, why: str) -> None:
        node = self._shell.node
        self._shell.carry(node.answer(effect.request_id, effect.peer, answer, why, self._shell.now))

    def warm(self, effect: Warm) -> None:
        """See `Network.warm`."""
        self._spawn(self._warm(effect))

    async def _warm(self, effect: Warm) -> None:
        try:
            await self._streams.connection(effect.peer, effect.address)
        except BeemeshError as error:
            log.debug("a stream was not opened: %s", error.message)

    def reply(self, effect: Reply) -> None:
        """See `Network.reply`."""
        if effect.message is None:
            self.refuse(effect.token, "it has no answer to that now")
            return
        own = self._own.pop(effect.token, None)
        if own is None:
            self._streams.reply(effect.token, effect.message)
        elif not own.done():
            own.set_result(effect.message)

    def refuse(self, token: int, why: str) -> None:
        """See `Network.refuse`."""
        own = self._own.pop(token, None)
        if own is None:
            self._streams.refuse(token, why)
        elif not own.done():
            own.set_exception(Unreachable(f"this agent refused: {why}"))

    async def ask_node(self, peer: NodeId, message: msgspec.Struct, deadline_s: float) -> msgspec.Struct:
        """Put a question to any node on behalf of the API; raises `Unreachable`."""
        if peer == self._shell.node.self_id:
            return await self._ask_self(message, deadline_s)
        address = self._shell.node.view.address(peer)
        if address is None:
            raise Unreachable("that node's address is not known here")
        return await self._streams.ask(peer, address, message, deadline_s)

    async def _ask_self(self, message: msgspec.Struct, deadline_s: float) -> msgspec.Struct:
        token, self._next_own = self._next_own, self._next_own + 1
        future: asyncio.Future[msgspec.Struct] = asyncio.get_running_loop().create_future()
        self._own[token] = future
        node = self._shell.node
        self._shell.carry(node.asked(node.self_id, token, message, self._shell.now))
        try:
            return await asyncio.wait_for(future, deadline_s)
        except TimeoutError:
            raise Unreachable(f"this agent did not answer itself within {deadline_s:g} s") from None
        finally:
            self._own.pop(token, None)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a network task failed", exc_info=error)
