"""The bodies of `workload` and `object` intents: all that members may see of what operators run.

Names, labels and requirements are visible to members; the pod template, ConfigMaps and Secrets are sealed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from beemesh.identity.membership_card import Taint
from beemesh.ids import Digest, NodeId

HISTORY_MAX = 10
"""Older revisions in a record, as many as Kubernetes keeps where `revisionHistoryLimit` says nothing: each costs the
record about a kilobyte, and its custodians a share."""

ALIASES_MAX = 8
"""Earlier numbers of one revision that are remembered; pods of one that is forgotten are replaced by equal ones."""

Scheme = Literal["direct", "shamir", "verifiable"]
"""`direct`: the key itself sealed to each custodian (meshes of one or two nodes); see DESIGN section 7."""


class ShareTicket(msgspec.Struct, frozen=True):
    """Who keeps share `index`, and the SHA-256 of the share: a wrong share is caught and its sender named."""

    index: int
    custodian: NodeId
    share_digest: Digest


class Sealing(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the key of a sealed manifest is kept: any `k` of `n` shares of `epoch` open it."""

    scheme: Scheme
    k: int
    n: int
    tickets: tuple[ShareTicket, ...]
    key_commitment: bytes
    epoch: int = 0


class HostPort(msgspec.Struct, frozen=True, omit_defaults=True):
    """A port that a replica needs on its host; `number` 0 means any free one."""

    number: int = 0
    protocol: str = "TCP"
    container_port: int = 0
    name: str = ""


class Requirements(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one replica needs: thousandths of a core, MiB of memory and disk, host ports, GPUs."""

    cpu_m: int = 0
    mem_mb: int = 0
    storage_mb: int = 0
    ports: tuple[HostPort, ...] = ()
    gpus: int = 0
    cpu_limit_m: int = 0
    mem_limit_mb: int = 0
    """The sums of the containers' limits, for quotas; 0 where a container has none."""


class Expression(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Kubernetes selector requirement; `operator` is In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class Toleration(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Kubernetes toleration; an empty key with operator Exists tolerates everything."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        """Whether this toleration matches `taint` (Kubernetes' rule)."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.operator == "Exists":
            return not self.key or self.key == taint.key
        return self.key == taint.key and self.value == taint.value


class Preference(msgspec.Struct, frozen=True, omit_defaults=True):
    """A preferred node affinity: `weight` 1…100 for nodes on which every expression holds."""

    weight: int
    expressions: tuple[Expression, ...] = ()


class PodTerm(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a replica wants of pods of its namespace that `selector` (a conjunction; empty selects all) matches, among
    nodes with the same value of the label `topology`: to be where some are (`affinity`), where none is
    (`anti-affinity`), or that their numbers differ by at most `max_skew` between values (`spread`).

    `weight` 0 makes it a condition; 1…100 a wish (a spread with `ScheduleAnyway` is a wish of 100)."""

    kind: Literal["affinity", "anti-affinity", "spread"]
    topology: str
    selector: tuple[Expression, ...] = ()
    weight: int = 0
    max_skew: int = 0


class Constraints(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a replica may run, and where it had rather. `node_affinity` is a disjunction of conjunctions, as in
    Kubernetes."""

    node_name: str = ""
    node_selector: dict[str, str] = {}
    node_affinity: tuple[tuple[Expression, ...], ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    anti_affinity_hosts: bool = False
    """Never two replicas of this workload on one node."""
    preferences: tuple[Preference, ...] = ()
    pod_terms: tuple[PodTerm, ...] = ()


class Qos(msgspec.Struct, frozen=True, omit_defaults=True):
    """Priority (higher first), whether a higher one may evict it, whether it may evict lower ones itself
    (`preemptionPolicy`), and the Kubernetes QoS class."""

    priority: int = 0
    preemptible: bool = False
    qos_class: str = "BestEffort"
    preempts: bool = True
    priority_class: str = ""
    """The name of the PriorityClass that `priority` came from, for people."""


PROGRESS_DEADLINE_S = 600
"""Kubernetes' default."""


class Strategy(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a changed revision replaces the one before; surge and unavailable are counts of replicas."""

    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    max_surge: int = 1
    max_unavailable: int = 0
    surge_percent: int = 0
    unavailable_percent: int = 0
    """Where the counts came from percentages: another number of replicas makes other counts. 0 for plain counts."""
    min_ready_s: int = 0
    """How long a replica must have been ready before it counts as available."""
    progress_deadline_s: int = PROGRESS_DEADLINE_S
    """A rollout that gets nowhere for so long has failed; 0 for never."""
    paused: bool = False
    """Nothing of a rollout goes on; what dies is replaced as it was."""
    rollback: Literal["auto", "never"] = "auto"
    """Whether the mesh goes back by itself to the last revision that was complete, when the current one fails."""


class JobTerms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a Job asks for, with Kubernetes' defaults. `replicas` of the record are its completions."""

    parallelism: int = 1
    backoff_limit: int = 6
    """Failures of its pods, all counted together, after which the job has failed."""
    active_deadline_s: int = 0
    """Seconds from the record's creation after which the job has failed; 0 for none."""


class Terms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a revision asked of nodes, and members may see: kept beside an older revision, whose record says by now what
    the newer one asks."""

    requirements: Requirements = Requirements()
    constraints: Constraints = Constraints()
    qos: Qos = Qos()
    pod_labels: dict[str, str] = {}
    images: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    duplicate_tolerant: bool = True
    restart: Literal["alone", "with-peers"] = "alone"
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    state: Literal["memory", "disk"] = "memory"


class Revision(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sealed revision. `manifest` is the SHA-256 of the ciphertext, which `holders` keep; `fingerprint` is an
    HMAC by which `apply` knows that nothing changed."""

    number: int
    manifest: Digest
    size_bytes: int
    sealing: Sealing
    holders: tuple[NodeId, ...]
    fingerprint: bytes
    sealed_as: int = 0
    """The number that it was sealed under, where that is another: an undo or a restart gave it a new one."""
    aliases: tuple[int, ...] = ()
    """Numbers that it had before an undo: what runs under them is this revision too."""
    terms: Terms | None = None
    """What it asked for, where it is not the current one (whose terms are the record's own)."""
    cause: str = ""
    """How it came to be, for `rollout history`."""
    since_ms: int = 0
    """When it became the current one, by its operator's clock."""

    @property
    def sealed_number(self) -> int:
        """The number that it was sealed under."""
        return self.sealed_as or self.number

    def covers(self, number: int) -> bool:
        """Whether a pod of that number runs this revision."""
        return number == self.number or number in self.aliases


class Workload(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a `workload` intent. `revisions` is newest first and never empty; `generation` counts changes."""

    kind: str
    namespace: str
    name: str
    replicas: int
    revisions: tuple[Revision, ...]
    requirements: Requirements = Requirements()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    pod_labels: dict[str, str] = {}
    images: tuple[str, ...] = ()
    constraints: Constraints = Constraints()
    qos: Qos = Qos()
    strategy: Strategy = Strategy()
    duplicate_tolerant: bool = True
    restart: Literal["alone", "with-peers"] = "alone"
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    state: Literal["memory", "disk"] = "memory"
    references: tuple[str, ...] = ()
    """`configmap/<name>` and `secret/<name>` that the sealed template embeds."""
    created_ms: int = 0
    managed_by: str = ""
    """Set by `reconcile`: the source that owns this record and may prune it."""
    history_limit: int = HISTORY_MAX
    """How many older revisions are kept (`revisionHistoryLimit`)."""
    job: JobTerms | None = None
    """Only of a Job."""
    issuing_key: bytes = b""
    """The public half of the key that issues this workload's replica identities (Ed25519); the private half is sealed
    with the manifest."""

    @property
    def workload_id(self) -> str:
        """The mesh-wide key, such as `deployment/default/hello`."""
        return f"{self.kind.lower()}/{self.namespace}/{self.name}"

    @property
    def current(self) -> Revision:
        """The revision that should run."""
        return self.revisions[0]

    def revision(self, number: int) -> Revision | None:
        """The kept revision of that number, if any."""
        return next((revision for revision in self.revisions if revision.number == number), None)

    def covering(self, number: int) -> Revision | None:
        """The kept revision that a pod of that number runs, whichever number it bears by now."""
        return next((revision for revision in self.revisions if revision.covers(number)), None)

    @property
    def terms(self) -> Terms:
        """What the current revision asks for."""
        return Terms(**{name: getattr(self, name) for name in Terms.__struct_fields__})

    def as_of(self, number: int) -> Workload | None:
        """This workload with what a kept revision asked for in the place of what the current one asks; None when that
        revision is not kept. Its revisions stay: it is for those who run an older one, not for signing."""
        revision = self.revision(number)
        if revision is None or number == self.current.number or revision.terms is None:
            return self if revision is not None else None
        return self.with_terms(revision.terms)

    def with_terms(self, terms: Terms) -> Workload:
        """The same workload asking for what `terms` say."""
        return msgspec.structs.replace(self, **{name: getattr(terms, name) for name in Terms.__struct_fields__})


class SealedObject(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an `object` intent: a ConfigMap or Secret whose content is sealed like a manifest."""

    kind: str
    namespace: str
    name: str
    revision: Revision
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    type: str = ""
    created_ms: int = 0
    managed_by: str = ""
