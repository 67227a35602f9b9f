"""Carries out what the node decides: the one place where effects meet sockets, disk and clock.

Effects leave in the order in which they were decided. Where a `Save` is among them, all that leaves the node after it
waits until the disk has it; if the disk refuses, nothing of it leaves, so nothing was promised that is not kept. Where
an earlier call's `Save` still waits or has failed, a `Flush` of its row holds back what follows in the same way; all
else goes on, also while the disk refuses: a lease is renewed and a pod is ended without it. What a node notices it is
told of at once, and surely: a machine that is shut out loses its streams, whatever the disk does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from agent.clock import Clock
from agent.store import Store, StoreFailure
from agent.timers import Timers
from beemesh.effects import Cancel, Erase, Flush, JobFinished, Notify, Now, Reply, Run, Save, Schedule
from beemesh.events import Submitted
from beemesh.node import Node
from beemesh.outward import Ask, Outward, Tell, Transmit, Warm

log = logging.getLogger("beemesh.shell")


class Network(Protocol):
    """What the shell needs of the transports."""

    def transmit(self, address: tuple[str, int], data: bytes) -> None:
        """Send a datagram, without any promise."""
        ...

    def tell(self, effect: Tell) -> None:
        """Send a one-way message over a stream, without any promise."""
        ...

    def ask(self, effect: Ask) -> None:
        """Send a request over a stream; the answer, or the lack of one, is handed to the node."""
        ...

    def warm(self, effect: Warm) -> None:
        """Open a stream, without any promise."""
        ...

    def reply(self, effect: Reply) -> None:
        """Answer a peer's request."""
        ...

    def refuse(self, token: int, why: str) -> None:
        """Tell whoever asked that there will be no answer."""
        ...


PROBE = Save("probe", b"room", bytes(16 * 1024))
"""Written while the disk refuses: as large as what a submission saves at once. It stays, one row for ever."""


PROMISES = (Submitted,)
"""Notifications that say outside that something is saved; all others say what the node goes by from now on."""

REFUSAL = "its disk refuses writes"
"""What peers hear of it; the path and the error are this machine's own business."""


class Shell:
    """Feeds events to the node and carries its effects out. Single-threaded: everything happens on the event loop."""

    def __init__(
        self,
        node: Node,
        store: Store,
        clock: Clock,
        run_job: Callable[[Run], None],
        observe: Callable[[Any], None],
    ) -> None:
        """`run_job` starts a job and sees to its `JobFinished`; `observe` gets every notification."""
        self.node = node
        self._store = store
        self._clock = clock
        self._run_job = run_job
        self._observe = observe
        self._timers = Timers(self._timer)
        self._network: Network | None = None
        self.store_error = ""
        """Why the disk refused the last write; empty while it takes them. Shown by `doctor`."""

    def connect(self, network: Network) -> None:
        """Attach the transports, before `start`."""
        self._network = network

    @property
    def now(self) -> Now:
        """This moment, as every protocol sees it."""
        return self._clock.now()

    def start(self) -> None:
        """Start the node's protocols."""
        self.carry(self.node.start(self.now))

    def event(self, event: Any) -> None:
        """Hand the node an event: a command, an observation, the end of a job."""
        self.carry(self.node.event(event, self.now))

    def datagram(self, data: bytes, source: tuple[str, int]) -> None:
        """Hand the node a datagram as it came from the socket."""
        self.carry(self.node.datagram(data, source, self.now))

    def _timer(self, key: Hashable) -> None:
        self.carry(self.node.timer(key, self.now))

    def carry(self, effects: Outward) -> None:
        """Carry effects out, holding back what follows a save until it is durable."""
        writes: list[Save | Erase] = []
        after: list[Any] = []
        waits = False
        for effect in effects:
            match effect:
                case Save() | Erase():
                    writes.append(effect)
                    waits = True
                case Flush(table=table, key=key):
                    waits = waits or self._store.owes(table, key)
                case Schedule(key=key, at_boot_s=at_boot_s):
                    self._timers.set(key, at_boot_s)
                case Cancel(key=key):
                    self._timers.cancel(key)
                case Notify(event=event) if not isinstance(event, PROMISES):
                    self._observe(event)
                case _ if waits:
                    after.append(effect)
                case _:
                    self._leave(effect)
        if waits:
            self._store.write(writes).add_done_callback(lambda done: self._saved(done, after))

    def _saved(self, done: asyncio.Future[None], after: list[Any]) -> None:
        error = done.exception()
        if error is None:
            self.store_error = ""
            for effect in after:
                self._leave(effect)
        elif isinstance(error, StoreFailure):
            if not self.store_error:
                log.error("the store refuses writes: %s", error)
            self.store_error = error.message
            self._withdraw(after, error.message)
        else:
            raise error

    def try_store(self) -> None:
        """While the disk refuses writes, try one: a node that takes no work for want of room may have nothing else to
        save, and would never learn that there is room again."""
        if self.store_error:
            self._store.write((PROBE,)).add_done_callback(lambda done: self._saved(done, []))

    def _withdraw(self, effects: list[Any], reason: str) -> None:
        """What depended on a write that failed never happens; whoever waits for its outcome hears so."""
        for effect in effects:
            if isinstance(effect, Ask):
                self.carry(self.node.answer(effect.request_id, effect.peer, None, reason, self.now))
            elif isinstance(effect, Run):
                self.event(JobFinished(effect.job_id, error=f"DiskFull: {reason}"))
            elif isinstance(effect, Reply) and self._network is not None:
                self._network.refuse(effect.token, REFUSAL)

    def _leave(self, effect: Any) -> None:
        assert self._network is not None, "connect() comes before the first event"
        match effect:
            case Transmit(address=address, data=data):
                self._network.transmit(address, data)
            case Tell():
                self._network.tell(effect)
            case Ask():
                self._network.ask(effect)
            case Reply():
                self._network.reply(effect)
            case Warm():
                self._network.warm(effect)
            case Run():
                self._run_job(effect)
            case Notify(event=event):
                self._observe(event)

    def close(self) -> None:
        """Fire no timer any more."""
        self._timers.close()
