"""What nodes say to each other about who runs what (DESIGN section 6). Times are wall milliseconds, durations `_ms`."""

from __future__ import annotations

from typing import Literal

import msgspec

from beemesh.identity.signing import Signed
from beemesh.ids import Digest, NodeId
from beemesh.workloads.record import Constraints, Qos, Requirements

TOPIC_TASKS = "scheduler-tasks"
TOPIC_PROPOSALS = "scheduler-proposals"
TOPIC_EVENTS = "scheduler-events"

TASK_KIND = "task"
BID_KIND = "bid"
LEASE_KIND = "lease"
VERDICT_KIND = "cas-verdict"
EVENT_KIND = "event"
TASK_DIGEST_KIND = "task-digest"
EVENT_WATCH_KIND = "event-watch"


class Occupancy(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where other replicas are that one pod term of the task is about: how many at each value of its topology (the
    fullest values), the fewest that any value has which the replica may go to, and how many there are in all."""

    counts: dict[str, int] = {}
    floor: int = 0
    total: int = 0


class Task(msgspec.Struct, frozen=True, omit_defaults=True):
    """Start one replica of one revision. The steward signs it; the authority is the operator's record that it names
    by `record_digest` (SHA-256 of the signed intent's body)."""

    task_id: str
    workload_id: str
    namespace: str
    kind: str
    revision: int
    replica: int
    manifest_ref: Digest
    record_digest: Digest
    expires_ms: int
    issued_ms: int
    nonce: bytes
    attempt: int = 1
    reqs: Requirements = Requirements()
    qos: Qos = Qos()
    constraints: Constraints = Constraints()
    avoid: tuple[NodeId, ...] = ()
    """Nodes that run another replica of this workload: they may bid, but rank behind those that run none."""
    failed: tuple[NodeId, ...] = ()
    """Nodes on which this replica failed: they may bid, but rank behind all others."""
    hints: dict[str, str] = {}
    duplicate_tolerant: bool = True
    restart: Literal["alone", "with-peers"] = "alone"
    tentative: bool = False
    """The steward's lease is a minority's: this is for those who are cut off with it, and for nobody else."""
    instead_of: int = 0
    """The current revision, when this is for an older one, since that one failed or is paused."""
    occupancy: tuple[Occupancy, ...] = ()
    """One per pod term of `constraints`, as the steward knew it: best effort, for nodes know the rest themselves."""


class Bid(msgspec.Struct, frozen=True, omit_defaults=True):
    """One node's offer: `score` 0…1 (higher wins, ties by node ID), `fit` per resource 0…1, `reasons` its parts."""

    task_id: str
    node_id: NodeId
    score: float
    issued_ms: int
    expires_ms: int
    nonce: bytes
    fit: dict[str, float] = {}
    reasons: dict[str, float] = {}
    capabilities: tuple[str, ...] = ()


class Lease(msgspec.Struct, frozen=True, omit_defaults=True):
    """A claim on `key` (`lease/<workload id>/<replica>` or `steward/<workload id>`), signed by its holder.

    `version` is the compare-and-swap counter; `fence` the executor's monotonic right; `ttl_ms` a duration that each
    side counts on its own boot clock. `renew_nonce` is fresh in each renewal.
    """

    key: str
    holder: NodeId
    task_id: str
    fence: int
    ttl_ms: int
    version: int
    renew_nonce: bytes
    workload_id: str = ""
    revision: int = 0
    replica: int = 0
    released: bool = False
    """A holder that gives the lease up says so with a last version; the next claimant need not wait."""


Outcome = Literal["granted", "conflict", "wrong_set", "abstain", "refused"]


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """One replica's answer to a compare-and-swap. A `granted` one is a grant: it counts in a lease proof."""

    key: str
    lease_digest: Digest
    outcome: Outcome
    replica: NodeId
    kset_hash: Digest
    fence_seen: int
    answered_ms: int
    ttl_ms: int = 0
    reason: str = ""


class LeaseProof(msgspec.Struct, frozen=True, omit_defaults=True):
    """A lease with the signed grants of its replicas; enough of them make it majority-granted, else it is tentative."""

    lease: Signed
    grants: tuple[Signed, ...]
    tentative: bool = False


EventStatus = Literal[
    "Scheduled",
    "Pulling",
    "Deployed",
    "Failed",
    "Preempted",
    "Cancelled",
    "Stopped",
    "Ready",
    "NotReady",
    "Restarted",
    "Pending",
    "ShareReleased",
    "ShareRefused",
    "IntentConflict",
    "IdentityCloned",
    "NodeJoined",
    "NodeDead",
    "NodeLeft",
    "Applied",
    "Deleted",
    "RolledOut",
    "RolledBack",
    "Completed",
]


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """What happened, told by `node_id` and signed by it; kept for a bounded time, shown by `beemeshctl events`."""

    event_id: str
    node_id: NodeId
    status: EventStatus
    issued_ms: int
    task_id: str = ""
    workload_id: str = ""
    namespace: str = ""
    revision: int = 0
    replica: int = 0
    reason: str = ""
    details: dict[str, str] = {}


class SignedTask(msgspec.Struct, frozen=True):
    """A task on its topic, signed by the steward (kind `task`)."""

    task: Signed


class SignedBid(msgspec.Struct, frozen=True):
    """A bid on its topic, signed by the bidder (kind `bid`)."""

    bid: Signed


class SignedEvent(msgspec.Struct, frozen=True):
    """An event on its topic, signed by the node it happened on (kind `event`)."""

    event: Signed


class CompareAndSwap(msgspec.Struct, frozen=True):
    """Put `lease` at its key if the replica's version is `expected_version`; `kset_hash` names the claimant's k-set."""

    lease: Signed
    expected_version: int
    kset_hash: Digest


class CasAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The replica's signed verdict (kind `cas-verdict`) and the lease that stands at the key now, if any."""

    verdict: Signed
    current: Signed | None = None
    memberships: tuple[Signed, ...] = ()
    """With `wrong_set`: the replica's roster entries that the claimant may lack."""


class GetLease(msgspec.Struct, frozen=True):
    """Ask a replica what stands at `key`, without changing it."""

    key: str


class LeaseAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands at the key: the lease (None when never held or over), its remaining time, the highest fence seen."""

    key: str
    current: Signed | None
    fence_seen: int
    remaining_ms: int = 0


class CallForBids(msgspec.Struct, frozen=True):
    """In a large mesh: a task for one candidate, who answers its steward with an `Offer`; nobody else hears of it."""

    task: Signed


class Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A candidate's answer to the steward: a bid, or why there is none (any more); vouched for by its sender alone.
    After an award without a lease, `wait_ms` says when a claim may succeed. One may come late: room has appeared."""

    task_id: str
    bid: Bid | None = None
    reasons: tuple[str, ...] = ()
    wait_ms: int = 0


class Award(msgspec.Struct, frozen=True, omit_defaults=True):
    """The steward's word that a bidder leads: claim the lease. It carries the task for those who bid on a digest."""

    task_id: str
    task: Signed | None = None


class TaskLine(msgspec.Struct, frozen=True, array_like=True):
    """One task in a digest: enough to judge it by the operator's record, which every node has."""

    task_id: str
    workload_id: str
    revision: int
    replica: int


class TaskDigest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tasks of one steward that nobody has taken yet. Of those who could take one, a `lot` (0…1) of each task's nodes
    is asked to step in, drawn by the hash of task and node; it grows from digest to digest."""

    steward: NodeId
    issued_ms: int
    lot: float
    tasks: tuple[TaskLine, ...]


class SignedTaskDigest(msgspec.Struct, frozen=True):
    """A digest on the topic of tasks, signed by the steward (kind `task-digest`)."""

    digest: Signed


class EventTaken(msgspec.Struct, frozen=True):
    """A steward has an event that was handed to it alone."""

    event_id: str


class ListEvents(msgspec.Struct, frozen=True):
    """What was told of these workloads lately, or of all where none is named (request). In a large mesh stewards, and
    the keepers that would follow them, have heard it."""

    workload_ids: tuple[str, ...]


class EventList(msgspec.Struct, frozen=True):
    """The newest of them, oldest first, as they were signed."""

    events: tuple[Signed, ...]


class EventWatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """In a large mesh: somebody at `node_id` watches events for the next `for_ms`; each is told there."""

    node_id: NodeId
    issued_ms: int
    for_ms: int
    namespace: str = ""
    """Of this namespace alone; empty for all."""


class SignedEventWatch(msgspec.Struct, frozen=True):
    """A watch on the topic of events, signed by the node that asks (kind `event-watch`)."""

    watch: Signed


class SilenceQuestion(msgspec.Struct, frozen=True):
    """Ask a node why it did not bid for a task."""

    task_id: str


class SilenceAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The reasons, empty when the node bid or never saw the task (`seen` tells)."""

    task_id: str
    seen: bool
    reasons: tuple[str, ...] = ()
