"""What the API's handlers are given, and what they take and give as bodies of requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from agent.api.auth import Gate
from agent.api.mesh import MeshReader
from agent.api.relay import Relay
from agent.metrics import Metrics
from beemesh.custody.messages import ReleaseAnswer, ReleaseRequest
from beemesh.events import Submitted
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId
from beemesh.intents.record import Intent
from beemesh.workloads import kubeshape

Json = dict[str, Any]
Running = Callable[[], Awaitable[Mapping[str, str]]]
"""Asks the mesh which tasks' pods run, each with its node's name."""


class SubmissionBody(msgspec.Struct, frozen=True):
    """What `beemeshctl apply` posts."""

    record: Signed
    ciphertext: bytes = b""
    boxes: tuple[tuple[int, bytes], ...] = ()


class ReadingBody(msgspec.Struct, frozen=True):
    """What an operator posts to read a sealed manifest back."""

    request: ReleaseRequest


class ReadingAnswer(msgspec.Struct, frozen=True):
    """The ciphertext, and each custodian's answer; the shares in them are sealed to the operator."""

    ciphertext: bytes | None
    answers: tuple[tuple[bytes, ReleaseAnswer], ...]


class AgentDoor(Protocol):
    """What the API needs of the agent besides reading."""

    name: str
    node_id: NodeId
    metrics: Metrics

    def wall_ms(self) -> int:
        """The agent's wall clock."""
        ...

    def is_ready(self) -> str:
        """Empty when the agent takes work, else why not."""
        ...

    async def submit(self, record: Signed, ciphertext: bytes, boxes: tuple[tuple[int, bytes], ...]) -> Submitted:
        """Carry a submission through."""
        ...

    def check_record(self, record: Signed) -> Intent:
        """Verify a record without putting it; raises `Untrusted`."""
        ...

    async def gather(self, request: ReleaseRequest) -> ReadingAnswer:
        """Fetch a ciphertext, and ask its custodians on an operator's behalf."""
        ...

    async def checks(self) -> list[Json]:
        """What `doctor` shows of this node."""
        ...

    def links(self) -> Json:
        """How this node sees all others."""
        ...

    def logs(self, namespace: str, pod: str, query: dict[str, str]) -> AsyncIterator[bytes]:
        """A container's output on this node; raises `NotFound`."""
        ...

    async def tasks(self, running: Running) -> list[kubeshape.TaskView]:
        """The tasks that this agent heard of."""
        ...

    async def explain(self, task_id: str, running: Running) -> Json:
        """Everything known of a task's placement; raises `NotFound`."""
        ...


@dataclass(frozen=True, slots=True)
class Backend:
    """All that a handler may use."""

    mesh: MeshReader
    gate: Gate
    relay: Relay
    door: AgentDoor
