"""What protocols tell each other through `Notify`: the seams between them, all in one place.

`beemesh.node` hands every notification to every other protocol; each takes the kinds that it knows. Names in the past
tense report a fact; names in the imperative ask another protocol for something and are answered by a fact.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from beemesh.dht.records import Record, RecordType
from beemesh.identity.membership_card import GossipRing
from beemesh.identity.signing import Signed
from beemesh.ids import Digest, NodeId
from beemesh.intents.record import Intent
from beemesh.scheduling.messages import Bid, Event, LeaseProof, Task
from beemesh.secret import SecretBytes
from beemesh.start_right import StartRight
from beemesh.workloads.observation import ReplicaReport

# --- membership -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemberUp:
    """A member is alive (again), as far as this node can tell."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class MemberDown:
    """This node judges a member dead."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """A member said that it leaves."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class PingEchoed:
    """A member itself echoed a nonce that this node drew: the datagram it came in is fresh, so its boot id and counter
    are the member's floor."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class FloorWanted:
    """From admission: a datagram claims to come from a member whose counter floor is not known yet; ping it."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class ForeignKeyEpoch:
    """From admission: a datagram that claims to come from a member was sent under a gossip key unknown here."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class RingChanged:
    """The gossip keys are these now. Stays inside the node: admission and the sealer take it."""

    ring: GossipRing


@dataclass(frozen=True, slots=True)
class ClockTestimony:
    """From admission and from handshakes: a member proved that it holds it to be `wall_ms` at least, which is much
    later than our own clock says."""

    node_id: NodeId
    wall_ms: int


@dataclass(frozen=True, slots=True)
class ClockAgreed:
    """Members agree that it is `wall_ms` at least. Whoever drives this node moves its clock there if it is held."""

    wall_ms: int


@dataclass(frozen=True, slots=True)
class CompareWanted:
    """Compare intent maps with this member soon: one of us seems to have been away."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class LeaveMesh:
    """From the shell, as the last thing before it stops: tell the members that this node goes."""


@dataclass(frozen=True, slots=True)
class ReservationsChanged:
    """What placed work holds on this node now, in the units of `Requirements`."""

    cpu_m: int
    mem_mb: int
    storage_mb: int


# --- topics ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message arrived on a topic, once; `relay` handed it to us and need not be its author."""

    topic: str
    message: msgspec.Struct
    relay: NodeId


# --- records of the DHT ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublishRecord:
    """Tell the mesh, until it is withdrawn, that this node is, keeps or runs `subject`."""

    type: RecordType
    subject: str
    value: bytes = b""
    is_old: bool = False
    """Whether this node may have published it before it started, so that others still keep it fresh."""


@dataclass(frozen=True, slots=True)
class WithdrawRecord:
    """Publish it no longer; what is out expires."""

    type: RecordType
    subject: str


@dataclass(frozen=True, slots=True)
class RecordPublished:
    """Those that readers of a record of ours ask first have answered, or did not in time: `kept` of `asked` keep it."""

    type: RecordType
    subject: str
    kept: int
    asked: int


@dataclass(frozen=True, slots=True)
class FindProviders:
    """Who has `subject`? Answered by `ProvidersFound` with the same `ref`, within some seconds."""

    ref: str
    type: RecordType
    subject: str


@dataclass(frozen=True, slots=True)
class ProvidersFound:
    """Who said that they have it, each verified by its own signature; none when nobody was found."""

    ref: str
    subject: str
    nodes: tuple[NodeId, ...]
    records: tuple[Record, ...] = ()


# --- intents --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IntentChanged:
    """The winning record of a key is now `intent`; `before` is what stood there. Already saved when this is told.
    Where a revocation emptied the key, `intent` is a tombstone that nobody signed (`IntentMap.note_comparison`)."""

    intent: Intent
    signed: Signed
    before: Intent | None


@dataclass(frozen=True, slots=True)
class IntentLost:
    """Two records of equal (epoch, seq) met; `loser` did not win and its author should know."""

    loser: Intent
    winner: Intent


@dataclass(frozen=True, slots=True)
class SeedIntents:
    """Merge records that came with the node's configuration. They are no news: the others were given them, too, and
    comparisons carry what somebody lacks. A thousand nodes that told each other a thousand records each would drown."""

    records: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class PutIntent:
    """Merge this record, which came from outside the mesh's own exchange (a command, a joiner)."""

    signed: Signed
    token: int = 0
    """When not 0: answered by `IntentPut`."""
    tell: bool = True
    """Whether it is news for the others; what was asked for is known where it came from."""


@dataclass(frozen=True, slots=True)
class IntentPut:
    """The outcome of `PutIntent`: `accepted` when the record stands now (also when it already did)."""

    token: int
    accepted: bool
    reason: str = ""


# --- commands from the API ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submit:
    """Accept what an operator wants: a signed intent, with the ciphertext and the sealed shares of its newest revision
    when it has one. Answered by `Submitted(token, …)`: accepted means that manifest and shares are with their holders
    and that the record is saved on two nodes (one on a lone node)."""

    token: int
    record: Signed
    ciphertext: bytes = b""
    boxes: tuple[tuple[int, bytes], ...] = ()
    """(share index, share sealed to its custodian's key)."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The outcome of a `Submit`."""

    token: int
    accepted: bool
    reason: str = ""
    conflict: bool = False
    """Refused because the map already holds another record of this or a later version."""
    keepers: tuple[str, ...] = ()
    """Refused because these, by name, did not save their part: others may be chosen."""


# --- leases ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim `key` by compare-and-swap, and renew every `renew_ms` until `ReleaseLease` or loss. Answered by
    `LeaseGranted` or `LeaseDenied`; a later loss by `LeaseLost`."""

    key: str
    ttl_ms: int
    renew_ms: int
    task_id: str = ""
    workload_id: str = ""
    revision: int = 0
    replica: int = 0
    tentative_ok: bool = False
    """Whether a grant by a minority is worth anything to the claimant."""
    follows: int = 0
    """The fence by which that runs already what the lease is for; 0 where nothing does. Its claimant claims until it is
    granted or gives up, all the while by the next fence: no try uses one up, so a grant by a later one says that
    somebody else may have held the key in between."""


@dataclass(frozen=True, slots=True)
class ReleaseLease:
    """Give up `key` (also while the claim is still open)."""

    key: str


@dataclass(frozen=True, slots=True)
class LeaseGranted:
    """The claim holds; also told after each renewal, with the newer proof and end (our boot clock)."""

    key: str
    proof: LeaseProof
    fence: int
    expires_boot_s: float
    renewed: bool = False


@dataclass(frozen=True, slots=True)
class LeaseDenied:
    """Somebody else holds the key, or too few replicas answered; `retry_after_s` is when a new claim may succeed."""

    key: str
    reason: str
    holder: NodeId | None = None
    retry_after_s: float = 1.0


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """A lease that was held could not be renewed in time, or was overtaken."""

    key: str
    reason: str


# --- custody --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenManifest:
    """Fetch, release and open a sealed manifest: answered by `ManifestOpened` or `ManifestDenied` of the same `ref`."""

    ref: str
    key: str
    """Intent key of the workload."""
    manifest: Digest
    revision: int
    replica: int
    proof: LeaseProof


@dataclass(frozen=True, slots=True)
class ManifestOpened:
    """The plaintext (msgpack of `beemesh.custody.sealing.SealedContent`), in memory only."""

    ref: str
    plaintext: SecretBytes


@dataclass(frozen=True, slots=True)
class ManifestDenied:
    """The manifest cannot be opened now: each custodian's or holder's reason, for a person."""

    ref: str
    reasons: tuple[str, ...]
    retryable: bool = True
    alone: bool = False
    """Nobody refused: too few custodians or holders are in reach."""


# --- scheduling -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TaskHeard:
    """From `bidding`: a task whose signature holds, heard for the first time; `signed` is what to hand on."""

    task: Task
    signed: Signed


@dataclass(frozen=True, slots=True)
class BidHeard:
    """From `bidding`: a bid for a known task whose signature holds; our own ones too."""

    bid: Bid


@dataclass(frozen=True, slots=True)
class PublishTask:
    """From `steward`: bring this task to those who may run it; `calling` chooses the way."""

    task: Task
    signed: Signed


@dataclass(frozen=True, slots=True)
class OfferHeard:
    """From `calling`, on the steward's node in a large mesh: what a candidate answered, a bid or its reasons."""

    task_id: str
    node_id: NodeId
    bid: Bid | None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskUnplaced:
    """From `calling`: nobody who was asked takes a called task; each one's reasons, none where no live node is fit."""

    task_id: str
    reasons: tuple[tuple[NodeId, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class EventHeard:
    """From `journal`: an event whose signature holds, kept for the first time; our own ones too."""

    event: Event


@dataclass(frozen=True, slots=True)
class EventRecalled:
    """From `journal`: an event whose signature holds, that others heard long ago and kept; no news to anybody."""

    event: Event


@dataclass(frozen=True, slots=True)
class TaskWon:
    """From `bidding`: this node holds the lease of the task's replica and should run it."""

    task: Task
    key: str
    proof: LeaseProof
    fence: int
    expires_boot_s: float


# --- running --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunRight:
    """From the executor: until when (our boot clock) a pod (`<namespace>/<pod>`) that must not be doubled may run here,
    which only a later word moves; `None`: it is gone, or was never started. Whoever carries out what the executor
    decides ends such a pod in time itself should the executor not be there to do it."""

    pod: str
    until_boot_s: float | None


@dataclass(frozen=True, slots=True)
class DeployPod:
    """`Run` job: start this replica's pod. `JobFinished.result` is a `ReplicaReport`; `error` is `<code>: <text>`, with
    the code `NOT_PERMITTED` when `right` had ended before anything was started."""

    pod: str
    task: Task
    fence: int
    plaintext: SecretBytes
    pod_labels: dict[str, str] = field(default_factory=dict)
    right: StartRight = field(default_factory=StartRight)


NOT_PERMITTED = "NotPermitted"


@dataclass(frozen=True, slots=True)
class StopPod:
    """`Run` job: stop and remove a pod; finishes without error also when there is no such pod. For a pod that is being
    stopped it takes the place of the earlier order, and both finish when the pod is gone."""

    pod: str
    grace_s: int
    reason: str = ""
    namespace: str = ""
    """Pods of one name may exist in several namespaces; empty means each of them."""


@dataclass(frozen=True, slots=True)
class PodsObserved:
    """From the shell: all pods of this node as its runtime sees them (at start, and whenever something changed)."""

    replicas: tuple[ReplicaReport, ...]
    complete: bool = True


@dataclass(frozen=True, slots=True)
class ResourcesObserved:
    """From the shell: what this machine has and what is free, in the units of `Requirements`."""

    cpu_m_total: int
    mem_mb_total: int
    storage_mb_total: int
    cpu_load: float
    mem_mb_free: int
    storage_mb_free: int
    ports_in_use: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """Publish a signed event on `scheduler-events` (and keep it here)."""

    event: Event


class Observed(msgspec.Struct, frozen=True):
    """Something worth a metric: a counter's name, its labels, and by how much it grew."""

    metric: str
    labels: dict[str, str] = {}
    amount: float = 1.0
