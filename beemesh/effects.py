"""The language between a protocol and whoever drives it: time and events in, effects out.

A protocol is one class with `handle(event, now) -> list[Effect]`. It never waits, looks at a clock or sends; the
agent's shell, the simulator and the tests carry its effects out. A `Save` or `Erase` is durable before any later
effect *of the same call* leaves; whoever relies on one of an earlier call asks for a `Flush`. Protocols do not know
each other: `beemesh.node` hands one's `Notify` to the others.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol, runtime_checkable

import msgspec

from beemesh.ids import NodeId


class Now(msgspec.Struct, frozen=True):
    """The two clocks: `boot_s` (CLOCK_BOOTTIME, seconds) drives every timer and lease; `wall_ms` is for freshness
    checks and for people alone."""

    boot_s: float
    wall_ms: int


# --- events ---------------------------------------------------------------------------------------------------------


class Received(msgspec.Struct, frozen=True):
    """An authenticated one-way message from a member: a datagram's body, or the same over a stream."""

    sender: NodeId
    message: msgspec.Struct


class Asked(msgspec.Struct, frozen=True):
    """A member's request; answer it with `Reply(token, …)` exactly once, at once or later."""

    sender: NodeId
    token: int
    message: msgspec.Struct


class Answered(msgspec.Struct, frozen=True):
    """The answer to our `Request(request_id, …)`; `message` is None when none came in time, and `error` says why."""

    request_id: int
    peer: NodeId
    message: msgspec.Struct | None
    error: str = ""


class TimerFired(msgspec.Struct, frozen=True):
    """A timer set by `Schedule(key, …)` is due."""

    key: Hashable


class JobFinished(msgspec.Struct, frozen=True):
    """A `Run` job is over; `result` has the shape its job documents, `error` is empty when it went well."""

    job_id: str
    result: Any = None
    error: str = ""


# --- effects --------------------------------------------------------------------------------------------------------


class Send(msgspec.Struct, frozen=True):
    """Send one message to one member, without any promise. Goes by datagram where it fits, else over a stream."""

    to: NodeId
    message: msgspec.Struct


class Broadcast(msgspec.Struct, frozen=True):
    """Publish a message on a topic to every member, at most once each."""

    topic: str
    message: msgspec.Struct


class Request(msgspec.Struct, frozen=True):
    """Ask a member; `Answered(request_id, …)` always follows, at the latest `deadline_s` seconds on."""

    request_id: int
    to: NodeId
    message: msgspec.Struct
    deadline_s: float


class Reply(msgspec.Struct, frozen=True):
    """Answer an `Asked`. `message` is None where there is no answer: the asker hears nothing it could take for one, and
    what the transport keeps of the request is given back."""

    token: int
    message: msgspec.Struct | None


class Schedule(msgspec.Struct, frozen=True):
    """Deliver `TimerFired(key)` at `at_boot_s`; a later `Schedule` of the same key replaces it."""

    key: Hashable
    at_boot_s: float


class Cancel(msgspec.Struct, frozen=True):
    """Forget the timer `key`, if it is set."""

    key: Hashable


class Save(msgspec.Struct, frozen=True):
    """Keep `value` under (`table`, `key`); durable before any later effect of the same call leaves."""

    table: str
    key: bytes
    value: bytes


class Erase(msgspec.Struct, frozen=True):
    """Remove (`table`, `key`); durable before any later effect of the same call leaves."""

    table: str
    key: bytes


class Flush(msgspec.Struct, frozen=True):
    """What was saved or erased last under (`table`, `key`), in whatever call, is durable before any later effect of
    this call leaves. For whoever says again that something is saved and has nothing new to save: the disk may have
    refused it, or not have it yet. Costs nothing where the disk has it."""

    table: str
    key: bytes


class Run(msgspec.Struct, frozen=True):
    """Start work outside the state machines (a deployment, a stop); `JobFinished(job_id, …)` always follows."""

    job_id: str
    job: Any


class Notify(msgspec.Struct, frozen=True):
    """Tell the other protocols, and the observers of the node, what happened; `event` is any frozen object."""

    event: Any


Effect = Send | Broadcast | Request | Reply | Schedule | Cancel | Save | Erase | Flush | Run | Notify
Effects = list[Effect]


@runtime_checkable
class StateMachine(Protocol):
    """The shape of every protocol."""

    def handle(self, event: Any, now: Now) -> Effects:
        """What to do about `event`, which happened at `now`."""
        ...


class Randomness(Protocol):
    """The injected source of chance: `random.SystemRandom` in an agent, a seeded `random.Random` elsewhere."""

    def random(self) -> float:
        """As `random.Random.random`."""
        ...

    def randbytes(self, n: int, /) -> bytes:
        """As `random.Random.randbytes`."""
        ...

    def uniform(self, a: float, b: float, /) -> float:
        """As `random.Random.uniform`."""
        ...

    def shuffle(self, x: list[Any], /) -> None:
        """As `random.Random.shuffle`."""
        ...

    def sample(self, population: Any, k: int) -> list[Any]:
        """As `random.Random.sample`."""
        ...

    def choice(self, seq: Any, /) -> Any:
        """As `random.Random.choice`."""
        ...
