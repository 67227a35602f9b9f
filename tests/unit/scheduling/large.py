"""One node of a mesh that is just large enough for tasks to go to candidates alone."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from beemesh.effects import Effects, Notify, Now, Received, Send
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import NodeId
from beemesh.intents.record import Intent
from beemesh.membership.roster import Roster
from beemesh.membership.summaries import Summary
from beemesh.membership.view import LARGE_ABOVE, View
from beemesh.scheduling.messages import TASK_KIND, Bid, Task
from beemesh.scheduling.tasks import make_task
from beemesh.workloads.reconciler import StartReplica
from simulator.crypto import FakeCrypto
from tests.unit.scheduling.samples import CA, MESH, WALL_MS, card, membership_intent, record, workload

SIZE = LARGE_ABOVE + 20


class Large:
    """The mesh as `n0` sees it: all live, all with the same summary unless told otherwise."""

    def __init__(self, size: int = SIZE, cards: dict[str, dict[str, Any]] | None = None, **wanted: Any) -> None:
        self.now = Now(100.0, WALL_MS)
        self.crypto = {f"n{index}": FakeCrypto(f"n{index}".encode()) for index in range(size)}
        self.ids = {name: NodeId(crypto.signer_id) for name, crypto in self.crypto.items()}
        self.names = {node_id: name for name, node_id in self.ids.items()}
        self.roster = Roster(MESH, CA.sign_key)
        for name in self.crypto:
            self.roster.apply(membership_intent(card(name, **(cards or {}).get(name, {}))))
        self.view = View(self.ids["n0"], self.roster)
        for name in self.crypto:
            self.view.set_status(self.ids[name], "alive")
            self.summarize(name)
        self.wanted = workload(**wanted)
        self.record = record(self.wanted)
        self.intents: dict[str, tuple[Intent, Signed]] = {self.record[0].key: self.record}

    def summarize(self, name: str, **changes: Any) -> None:
        """A node says what it has."""
        values = {
            "cpu_m_total": 4_000,
            "mem_mb_total": 8_192,
            "mem_mb_free": 6_000,
            "storage_mb_total": 50_000,
            "storage_mb_free": 40_000,
            "cpu_load": 0.3,
        }
        self.view.set_summary(Summary(self.ids[name], 1, WALL_MS, **{**values, **changes}))

    def task(self, number: int = 0, replica: int = 0, **changes: Any) -> Task:
        """A task for the record."""
        made = make_task(
            self.wanted, self.record[1], StartReplica(1, replica), self.now.wall_ms, random.Random(f"{number}")
        )
        return msgspec.structs.replace(made, **changes)

    def signed(self, task: Task, by: str = "n0") -> Signed:
        """As its steward hands it out."""
        return sign_statement(self.crypto[by], TASK_KIND, task)

    def bid(self, task: Task, name: str, score: float) -> Bid:
        """What a node may offer."""
        return Bid(task.task_id, self.ids[name], score, self.now.wall_ms, task.expires_ms, b"nonce")

    def later(self, seconds: float) -> None:
        """Time passes."""
        self.now = Now(self.now.boot_s + seconds, self.now.wall_ms + int(1000 * seconds))

    def received(self, name: str, message: msgspec.Struct) -> Received:
        """A message from a node."""
        return Received(self.ids[name], message)


def sends(effects: Effects, kind: type) -> list[Send]:
    """The messages of a kind that go to one node each."""
    return [each for each in effects if isinstance(each, Send) and isinstance(each.message, kind)]


def notes(effects: Effects, kind: type) -> list[Any]:
    """The notifications of a kind."""
    return [each.event for each in effects if isinstance(each, Notify) and isinstance(each.event, kind)]
