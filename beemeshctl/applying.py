"""What `apply` does, free of any command line: compare, seal, submit, wait.

A plan says for each object what will happen and why; nothing is sent before every object of the call is known to be
right. Sealing happens here, on the operator's machine: what leaves it is ciphertext, shares sealed to custodians, and
the record that members may see.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import msgspec

from beemesh.custody.messages import OPERATOR_READ_KIND, OperatorRead, ReleaseAnswer, ReleaseRequest
from beemesh.custody.sealing import (
    SealedContent,
    ShareOffer,
    context_of,
    decode_content,
    good_shares,
    open_content,
    place_of,
    plan_custody,
    seal,
)
from beemesh.errors import BeemeshError, Conflict, InvalidInput, KeepersFailed, Unavailable, Untrusted
from beemesh.identity.signing import Signed, decode_body, sign_statement
from beemesh.ids import NodeId, short
from beemesh.intents.record import Intent, IntentKind, object_key, sign_intent, workload_key
from beemesh.membership.roster import Roster
from beemesh.workloads.fingerprint import canonical, fingerprint
from beemesh.workloads.objects import CONFIG_KINDS, POLICY_KINDS, ManifestObject, ObjectKey
from beemesh.workloads.record import SealedObject, Workload
from beemesh.workloads.resolve import ResolvedWorkload
from beemesh.workloads.revising import next_number, with_revision
from beemesh.workloads.settings import CHANGE_CAUSE
from beemesh.workloads.strategies import for_replicas
from beemeshctl.client import BEEMESH, Client
from beemeshctl.clock import wall_ms
from beemeshctl.policies import POLICIES, Priorities
from beemeshctl.workload_identity import WorkloadIssuer, WorkRoot

Verb = Literal["created", "configured", "unchanged", "deleted"]

GROUPS = {
    "Deployment": "deployment.apps",
    "DaemonSet": "daemonset.apps",
    "Job": "job.batch",
    "Pod": "pod",
    "ConfigMap": "configmap",
    "Secret": "secret",
    "PodDisruptionBudget": "poddisruptionbudget.policy",
    "ResourceQuota": "resourcequota",
    "PriorityClass": "priorityclass.scheduling.k8s.io",
}
"""How kubectl names kinds in its messages."""

NONCE_BYTES = 16

PLANS_MAX = 4
"""How often one object is sealed: for its keepers, and for others in the place of those that fail."""

CUSTODIANS_MIN = 3
"""Where keepers are left out that are alive, so many must be left: no one machine may open alone what two had to."""


@dataclass(frozen=True, slots=True)
class Change:
    """One object and what becomes of it; `record` and what it seals are None when nothing has to be sent."""

    kind: str
    namespace: str
    name: str
    verb: Verb
    key: str
    record: Signed | None = None
    ciphertext: bytes = b""
    boxes: tuple[tuple[int, bytes], ...] = ()
    revision: int = 0
    replicas: int = 0
    fields: tuple[str, ...] = ()
    """What differs, by name; never any content."""
    without: Callable[[frozenset[str]], Change] | None = field(default=None, compare=False, repr=False)
    """Plans and seals it anew without these keepers; raises `Unavailable` when too few are left. None where nothing is
    sealed."""

    def __str__(self) -> str:
        return f"{GROUPS.get(self.kind, self.kind.lower())}/{self.name} {self.verb}"


@dataclass(slots=True)
class Mesh:
    """What planning has to know of the mesh, read once."""

    roster: Roster
    states: dict[bytes, str]
    records: dict[str, Signed]
    intents: dict[str, Intent] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    """Keepers, by name, that are alive and save nothing."""

    @classmethod
    def read(cls, client: Client) -> Mesh:
        """Read roster and records from whichever agent answers."""
        roster, states = client.roster()
        records = client.records()
        return cls(roster, states, records, {key: decode_body(signed, Intent) for key, signed in records.items()})

    def standing(self, key: str) -> Intent | None:
        """The record at a key that is no tombstone."""
        intent = self.intents.get(key)
        return intent if intent is not None and intent.kind != "tombstone" else None

    def next_seq(self, key: str) -> int:
        """The seq of the next record at a key; tombstones count."""
        intent = self.intents.get(key)
        return intent.seq + 1 if intent is not None else 1

    def live_keepers(self) -> list[Any]:
        """Keepers that the answering agent holds alive, but for those that are left out."""
        alive = [member for member in self.roster.keepers() if self.states.get(bytes(member.node_id)) == "alive"]
        return [member for member in alive if member.name not in self.left_out]


class Planner:
    """Turns resolved objects into changes."""

    def __init__(self, client: Client, mesh: Mesh, *, managed_by: str = "") -> None:
        self._client = client
        self._mesh = mesh
        self._managed_by = managed_by
        self._fingerprint_key = client.home.fingerprint_key()
        self._work_root: WorkRoot | None = None
        self._priorities = Priorities(mesh.standing(key) for key in mesh.intents if key.startswith("priority/"))

    def workload(self, wanted: ResolvedWorkload) -> Change:
        """What becomes of a workload."""
        wanted = self._priorities.ranked(wanted)
        key = workload_key(f"{wanted.kind.lower()}/{wanted.namespace}/{wanted.name}")
        intent = self._mesh.standing(key)
        before = msgspec.msgpack.decode(intent.body, type=Workload) if intent is not None else None
        print_ = fingerprint(self._fingerprint_key, wanted.template)
        draft = self._draft(wanted, before)
        identity = self._issuing(draft)
        draft = msgspec.structs.replace(draft, issuing_key=identity.public_key)
        same = before is not None and (before.current.fingerprint, before.issuing_key) == (print_, draft.issuing_key)
        if same and before is not None and msgspec.structs.replace(draft, revisions=before.revisions) == before:
            return Change(
                wanted.kind, wanted.namespace, wanted.name, "unchanged", key,
                revision=before.current.number, replicas=before.replicas,
            )  # fmt: skip
        if before is not None and before.kind == "Job" and not same:
            shown = f"{GROUPS['Job']}/{before.name}"
            raise InvalidInput(f"{shown}: the template of a job cannot be changed", hint="delete the job first")
        ciphertext, boxes = b"", ()
        if same and before is not None:
            body = msgspec.structs.replace(draft, revisions=before.revisions[: 1 + draft.history_limit])
        else:
            number = next_number(before)
            pem = identity.certify(draft.namespace, draft.name, wall_ms())
            content = SealedContent(wanted.template.reveal(), identity.private_key.reveal(), pem)
            sealed = self._seal(content, key, number, print_)
            ciphertext, boxes = sealed.ciphertext, sealed.boxes
            cause = wanted.annotations.get(CHANGE_CAUSE, "apply")
            body = with_revision(before, draft, sealed.revision, wall_ms(), cause)
        return Change(
            wanted.kind,
            wanted.namespace,
            wanted.name,
            "configured" if before is not None else "created",
            key,
            record=self._sign("workload", key, body),
            ciphertext=ciphertext,
            boxes=boxes,
            revision=body.current.number,
            replicas=body.replicas,
            fields=_differing(before, body) if before is not None else (),
            without=partial(self._without, self.workload, wanted) if ciphertext else None,
        )

    def _draft(self, wanted: ResolvedWorkload, before: Workload | None) -> Workload:
        created_ms = before.created_ms if before is not None else wall_ms()
        managed_by = self._managed_by or (before.managed_by if before is not None else "")
        draft = draft_of(wanted, created_ms=created_ms, managed_by=managed_by)
        if before is None or wanted.kind != "Deployment":
            return draft
        # What a manifest leaves out stays as `scale` and `rollout pause` made it, as with kubectl.
        replicas = draft.replicas if "replicas" in wanted.stated else before.replicas
        paused = draft.strategy.paused if "paused" in wanted.stated else before.strategy.paused
        strategy = msgspec.structs.replace(for_replicas(draft.strategy, replicas), paused=paused)
        return msgspec.structs.replace(draft, replicas=replicas, strategy=strategy)

    def revised(self, before: Workload, after: Workload) -> Change:
        """The change of a record that seals nothing anew."""
        key = workload_key(before.workload_id)
        return Change(
            before.kind,
            before.namespace,
            before.name,
            "configured",
            key,
            record=self._sign("workload", key, after),
            revision=after.current.number,
            replicas=after.replicas,
            fields=_differing(before, after),
        )

    def _issuing(self, workload: Workload) -> WorkloadIssuer:
        if self._work_root is None:
            self._work_root = WorkRoot.of(self._client.home, self._client.mesh)
        return self._work_root.issuer(workload.workload_id, workload.created_ms)

    def config(self, item: ManifestObject) -> Change:
        """What becomes of a ConfigMap or Secret."""
        key = object_key(item.kind, item.key.namespace, item.key.name)
        intent = self._mesh.standing(key)
        before = msgspec.msgpack.decode(intent.body, type=SealedObject) if intent is not None else None
        manifest = canonical(item.body)
        print_ = fingerprint(self._fingerprint_key, manifest)
        verb: Verb = "configured" if before is not None else "created"
        same_labels = before is not None and before.labels == item.labels
        same_owner = before is not None and (not self._managed_by or before.managed_by == self._managed_by)
        if before is not None and before.revision.fingerprint == print_ and same_labels and same_owner:
            return Change(item.kind, item.key.namespace, item.key.name, "unchanged", key)
        number = before.revision.number + 1 if before is not None else 1
        sealed = self._seal(SealedContent(manifest), key, number, print_)
        body = SealedObject(
            kind=item.kind,
            namespace=item.key.namespace,
            name=item.key.name,
            revision=sealed.revision,
            labels=item.labels,
            type=str(item.body.get("type", "")),
            created_ms=before.created_ms if before is not None else wall_ms(),
            managed_by=self._managed_by or (before.managed_by if before is not None else ""),
        )
        return Change(
            item.kind,
            item.key.namespace,
            item.key.name,
            verb,
            key,
            record=self._sign("object", key, body),
            ciphertext=sealed.ciphertext,
            boxes=sealed.boxes,
            revision=number,
            fields=("data",) if before is not None else (),
            without=partial(self._without, self.config, item),
        )

    def policy(self, item: ManifestObject) -> Change:
        """What becomes of a budget, a quota or a priority class. Nothing of it is secret: members read it."""
        kind = POLICIES[item.kind]
        key = kind.key(item.namespace, item.name)
        intent = self._mesh.standing(key)
        before: Any = msgspec.msgpack.decode(intent.body, type=kind.body) if intent is not None else None
        created_ms = before.created_ms if before is not None else wall_ms()
        managed_by = self._managed_by or (before.managed_by if before is not None else "")
        body = kind.record(item, created_ms=created_ms, managed_by=managed_by)
        place = (item.kind, item.namespace, item.name)
        self._priorities.note(body)
        if body == before:
            return Change(*place, "unchanged", key)
        verb: Verb = "configured" if before is not None else "created"
        fields = ("spec",) if before is not None else ()
        return Change(*place, verb, key, record=self._sign(kind.intent, key, body), fields=fields)

    def removal(self, kind: str, namespace: str, name: str) -> Change | None:
        """The tombstone of an object, or None when there is no such object."""
        key = key_of(kind, namespace, name)
        if self._mesh.standing(key) is None:
            return None
        return Change(kind, namespace, name, "deleted", key, record=self._sign("tombstone", key, None))

    def _without(self, planned: Callable[[Any], Change], wanted: Any, keepers: frozenset[str]) -> Change:
        self._mesh.left_out = keepers
        return planned(wanted)

    def _seal(self, content: SealedContent, key: str, number: int, print_: bytes) -> Any:
        plan = plan_custody(self._mesh.live_keepers(), place_of(key))
        if self._mesh.left_out and len(plan.custodians) < CUSTODIANS_MIN:
            raise Unavailable("too few other keepers are left")
        return seal(
            self._client.operator,
            secrets.token_bytes(32),
            content,
            plan,
            mesh=self._client.mesh,
            intent_key=key,
            number=number,
            fingerprint=print_,
        )

    def _sign(self, kind: IntentKind, key: str, body: msgspec.Struct | None) -> Signed:
        client, seq = self._client, self._mesh.next_seq(key)
        return sign_intent(client.operator, client.mesh, kind, key, body, seq, wall_ms())


def draft_of(wanted: ResolvedWorkload, *, created_ms: int = 0, managed_by: str = "") -> Workload:
    """The record of a workload as far as it is known before anything is sealed: it has no revision."""
    return Workload(
        kind=wanted.kind,
        namespace=wanted.namespace,
        name=wanted.name,
        replicas=wanted.replicas,
        revisions=(),
        requirements=wanted.requirements,
        labels=wanted.labels,
        annotations=wanted.annotations,
        pod_labels=wanted.pod_labels,
        images=wanted.images,
        constraints=wanted.constraints,
        qos=wanted.qos,
        strategy=wanted.strategy,
        duplicate_tolerant=wanted.settings.duplicate_tolerant,
        restart=wanted.settings.restart,
        restart_policy=wanted.restart_policy,
        job=wanted.job,
        state=wanted.settings.state,
        references=wanted.references,
        history_limit=wanted.history_limit,
        created_ms=created_ms,
        managed_by=managed_by,
    )


def key_of(kind: str, namespace: str, name: str) -> str:
    """The intent key of an object of any kind."""
    if kind in CONFIG_KINDS:
        return object_key(kind, namespace, name)
    if kind in POLICY_KINDS:
        return POLICIES[kind].key(namespace, name)
    return workload_key(f"{kind.lower()}/{namespace}/{name}")


def submit(client: Client, change: Change, *, dry_run: bool = False) -> None:
    """Hand a change to the mesh; returns once it is accepted. Raises `Conflict` when somebody was faster."""
    if change.record is None:
        return
    body = {"record": change.record, "ciphertext": change.ciphertext, "boxes": change.boxes}
    try:
        client.post(f"{BEEMESH}/submissions", body, dryRun="All" if dry_run else "")
    except Conflict as error:
        what = f"{GROUPS.get(change.kind, change.kind.lower())}/{change.name}"
        raise Conflict(
            f"{what} was changed by somebody else: {error.message}",
            hint="nothing of yours was applied; look at it with `beemeshctl get`, then apply again",
        ) from None


class Handing:
    """Hands in what one command changes; what some keepers do not save is sealed for others in their place."""

    def __init__(self, client: Client, warn: Callable[[str], None], *, dry_run: bool = False) -> None:
        """`warn` is told in words of each keeper that is left out."""
        self._client = client
        self._warn = warn
        self._dry_run = dry_run
        self._left_out: frozenset[str] = frozenset()

    def submit(self, change: Change) -> None:
        """Return once it is accepted; raises like `submit`."""
        if self._left_out and change.without is not None:  # it was sealed before they were known
            change = change.without(self._left_out)
        for _ in range(PLANS_MAX - 1):
            try:
                return submit(self._client, change, dry_run=self._dry_run)
            except KeepersFailed as error:
                change = self._instead(change, error)
        return submit(self._client, change, dry_run=self._dry_run)

    def _instead(self, change: Change, error: KeepersFailed) -> Change:
        failed = frozenset(error.keepers) - self._left_out
        if change.without is None or not failed:
            raise error
        try:
            instead = change.without(self._left_out | failed)
        except Unavailable:
            raise error from None
        self._left_out |= failed
        self._warn(f"left out as keepers, look after them: {', '.join(sorted(failed))} ({error.message})")
        return instead


def read_back(client: Client, mesh: Mesh, keys: Iterable[ObjectKey]) -> dict[ObjectKey, ManifestObject]:
    """ConfigMaps and Secrets that are already on the mesh, opened for this operator."""
    found: dict[ObjectKey, ManifestObject] = {}
    for key in keys:
        intent = mesh.standing(object_key(key.kind, key.namespace, key.name))
        if intent is not None:
            found[key] = _opened(client, mesh, intent)
    return found


def _opened(client: Client, mesh: Mesh, intent: Intent) -> ManifestObject:
    import json

    from beemesh.workloads.validation import check

    body = msgspec.msgpack.decode(intent.body, type=SealedObject)
    revision = body.revision
    wish = OperatorRead(
        mesh=client.mesh,
        key=intent.key,
        manifest=revision.manifest,
        operator_id=client.operator.signer_id,
        issued_ms=wall_ms(),
        nonce=secrets.token_bytes(NONCE_BYTES),
    )
    signed = sign_statement(client.operator, OPERATOR_READ_KIND, wish)
    request = ReleaseRequest(intent.key, revision.manifest, revision.sealing.epoch, operator_read=signed)
    raw = client.post(f"{BEEMESH}/readings", {"request": request})
    answer = msgspec.msgpack.decode(raw, type=_Reading)
    offers = [ShareOffer(NodeId(node), each.index, each.box) for node, each in answer.answers if each.released]
    shares, bad = good_shares(client.operator, revision.sealing, offers, short)
    refused = [f"{short(node)}: {each.reason}" for node, each in answer.answers if not each.released]
    if answer.ciphertext is None:
        raise Unavailable(
            f"{intent.key}: no holder gave its ciphertext", hint="are enough nodes up? see `beemeshctl doctor`"
        )
    try:
        context = context_of(client.mesh, intent.key, revision)
        plaintext = open_content(client.operator, context, revision, shares, answer.ciphertext)
    except (Unavailable, Untrusted) as error:
        detail = "; ".join([*refused, *bad])
        raise type(error)(f"{intent.key}: {error.message}{f' ({detail})' if detail else ''}") from None
    checked = check(json.loads(decode_content(plaintext).manifest))
    if checked.object is None:
        raise BeemeshError(f"{intent.key}: what is sealed on the mesh is no valid {body.kind} for this version")
    return checked.object


class _Reading(msgspec.Struct):
    ciphertext: bytes | None
    answers: tuple[tuple[bytes, ReleaseAnswer], ...]


def _differing(before: Workload, after: Workload) -> tuple[str, ...]:
    fields = [
        name
        for name in before.__struct_fields__
        if name not in ("revisions", "created_ms") and getattr(before, name) != getattr(after, name)
    ]
    if before.current.fingerprint != after.current.fingerprint:
        fields.append("template")
    return tuple(fields)
