"""What the API asks of the agent itself: submissions, readings, checks, logs, tasks and their explanation."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agent.api.mesh import MeshReader
from agent.api.seam import ReadingAnswer, Running
from agent.clock import Clock
from agent.counting import Counting
from agent.files import NodeFiles
from agent.metrics import Metrics
from agent.network import AgentNetwork
from agent.pods import PodWatch, runtime_pod_id
from agent.runtime.contract import Finding, Runtime, RuntimeFailure, Severity
from agent.shell import Shell
from agent.tasks import TaskReader
from beemesh.composition import Composition
from beemesh.custody.custodians import revisions_of
from beemesh.custody.messages import FetchManifest, ManifestAnswer, ReleaseAnswer, ReleaseRequest
from beemesh.errors import BeemeshError, NotFound, Unavailable, Unreachable
from beemesh.events import Observed, Submit, Submitted
from beemesh.identity.grants import Grant
from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId
from beemesh.intents.entitlement import verify_intent
from beemesh.intents.record import Intent
from beemesh.membership.picture import picture_of
from beemesh.membership.versions import gets_on_with
from beemesh.workloads.kubeshape import TaskView

if TYPE_CHECKING:
    from beemesh.workloads.record import Revision

SUBMISSION_PATIENCE_S = 15.0
"""The protocol ends every submission after ten seconds; this is for a disk that hangs."""

ASK_PATIENCE_S = 2.0
LOW_DISK_MB = 512
FULL_DISK_MB = 16
EXPIRY_WARNING_MS = 8 * 30 * 86_400_000
"""A third of a membership's or a grant's life: from then on `doctor` speaks of it."""

RENEWAL_HINT = "run `beemeshctl bootstrap` again: it renews what is past half of its life"

TAIL_LINES_MAX = 100_000
DIGITS_MAX = 12
"""Of a number in a query; longer ones mean the same."""


class Door:
    """See `agent.api.seam.AgentDoor`."""

    def __init__(
        self,
        *,
        files: NodeFiles,
        composition: Composition,
        shell: Shell,
        network: AgentNetwork,
        runtime: Runtime,
        watch: PodWatch,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.name = files.membership.name
        self.node_id = files.membership.node_id
        self.metrics = metrics
        self.runtime_error = "it is being made ready"
        self.mesh: MeshReader | None = None
        self._files = files
        self._composition = composition
        self._shell = shell
        self._network = network
        self._runtime = runtime
        self._watch = watch
        self._clock = clock
        self._submissions: dict[int, asyncio.Future[Submitted]] = {}
        self._next_token = 1
        self._counting = Counting(metrics, self.node_id)
        self._tasks = TaskReader(composition, self._ask)

    def wall_ms(self) -> int:
        """The agent's wall clock."""
        return self._clock.now().wall_ms

    def is_ready(self) -> str:
        """Empty when the agent takes work, else why not."""
        if self._shell.store_error:
            return f"the store refuses writes: {self._shell.store_error}"
        return (
            f"the {self._files.settings.runtime.engine} engine is not ready: {self.runtime_error}"
            if (self.runtime_error)
            else ""
        )

    def observe(self, event: Any) -> None:
        """Notifications of the node: counters, and the outcomes that somebody waits for."""
        if self.mesh is not None:
            self.mesh.live.hear(event)
        self._counting.hear(event)
        if isinstance(event, Observed):
            self.metrics.count(event)
        elif isinstance(event, Submitted):
            future = self._submissions.pop(event.token, None)
            if future is not None and not future.done():
                future.set_result(event)

    def links(self) -> dict[str, Any]:
        """How this node sees all others."""
        composition = self._composition
        seen = picture_of(composition.swim.members, composition.keyring.ring, self._clock.now())
        content: dict[str, Any] = msgspec.to_builtins(seen)
        return content

    # --- records --------------------------------------------------------------------------------------------------

    async def submit(self, record: Signed, ciphertext: bytes, boxes: tuple[tuple[int, bytes], ...]) -> Submitted:
        """Carry a submission through; raises `Unavailable` when its outcome does not come."""
        token, self._next_token = self._next_token, self._next_token + 1
        future: asyncio.Future[Submitted] = asyncio.get_running_loop().create_future()
        self._submissions[token] = future
        self._shell.event(Submit(token, record, ciphertext, boxes))
        try:
            return await asyncio.wait_for(future, SUBMISSION_PATIENCE_S)
        except TimeoutError:
            why = self._shell.store_error or "its outcome is not known"
            raise Unavailable(
                f"the submission did not end in time: {why}", hint="apply again: it is idempotent"
            ) from None
        finally:
            self._submissions.pop(token, None)

    def check_record(self, record: Signed) -> Intent:
        """Verify a record without putting it; raises `Untrusted`."""
        return verify_intent(self._files.crypto, self._composition.roster, record)

    async def gather(self, request: ReleaseRequest) -> ReadingAnswer:
        """Fetch a ciphertext, and ask its custodians on an operator's behalf."""
        found = self._composition.intents.get(request.key)
        revisions = revisions_of(found[0]) if found is not None else ()
        revision = next((each for each in revisions if each.manifest == request.manifest), None)
        if revision is None:
            raise NotFound(f"{request.key}: no such revision is kept")
        asked = msgspec.structs.replace(request, proof=None)
        custodians = [ticket.custodian for ticket in revision.sealing.tickets]
        answers = await asyncio.gather(*(self._ask(custodian, asked) for custodian in custodians))
        shares = tuple(
            (bytes(custodian), answer)
            for custodian, answer in zip(custodians, answers, strict=True)
            if isinstance(answer, ReleaseAnswer)
        )
        return ReadingAnswer(await self._ciphertext(revision), shares)

    async def _ciphertext(self, revision: Revision) -> bytes | None:
        for holder in revision.holders:
            answer = await self._ask(holder, FetchManifest(revision.manifest))
            if isinstance(answer, ManifestAnswer) and answer.ciphertext is not None:
                return answer.ciphertext
        return None

    async def _ask(self, peer: NodeId, message: msgspec.Struct) -> msgspec.Struct | None:
        try:
            return await self._network.ask_node(peer, message, ASK_PATIENCE_S)
        except Unreachable:
            return None

    # --- pods -----------------------------------------------------------------------------------------------------

    def logs(self, namespace: str, pod: str, query: dict[str, str]) -> AsyncIterator[bytes]:
        """A container's output on this node; raises `NotFound`."""
        if self._watch.find(namespace, pod) is None:
            raise NotFound(f'pods "{pod}" is not on node {self.name} any more')
        tail, since = query.get("tailLines", "")[:DIGITS_MAX], query.get("sinceSeconds", "")[:DIGITS_MAX]
        return self._lines(
            self._runtime.logs(
                runtime_pod_id(namespace, pod),
                query.get("container", ""),
                follow=query.get("follow") in ("true", "1"),
                tail_lines=min(int(tail), TAIL_LINES_MAX) if tail.isdecimal() else None,
                since_ms=self.wall_ms() - int(since) * 1000 if since.isdecimal() else None,
                timestamps=query.get("timestamps") in ("true", "1"),
            )
        )

    @staticmethod
    async def _lines(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for line in lines:
                yield line
        except RuntimeFailure as error:
            yield f"error: {error}\n".encode()

    # --- tasks ----------------------------------------------------------------------------------------------------

    async def tasks(self, running: Running) -> list[TaskView]:
        """See `TaskReader.tasks`."""
        return await self._tasks.tasks(running)

    async def explain(self, task_id: str, running: Running) -> dict[str, Any]:
        """See `TaskReader.explain`."""
        return await self._tasks.explain(task_id, running)

    def _name(self, node_id: bytes) -> str:
        member = self._composition.roster.member(node_id)
        return member.name if member else bytes(node_id).hex()[:10]

    # --- doctor ---------------------------------------------------------------------------------------------------

    async def checks(self) -> list[dict[str, Any]]:
        """What `doctor` shows of this node; every failed check says how to mend it."""
        findings = [
            *self._clock_checks(),
            *membership_findings(self._files.membership, self.wall_ms()),
            *grant_findings(self._composition.roster.grants(), self.wall_ms()),
            *self._disk_checks(),
            *self._mesh_checks(),
        ]
        try:
            findings += await self._runtime.check()
        except BeemeshError as error:
            findings.append(Finding("runtime", Severity.ERROR, error.message, error.hint))
        if self.runtime_error:
            findings.append(
                Finding(
                    "runtime", Severity.ERROR, self.runtime_error, "install or mend the engine; the agent tries again"
                )
            )
        return [
            {"check": each.check, "severity": each.severity.value, "message": each.message, "hint": each.hint}
            for each in findings
        ]

    def _clock_checks(self) -> list[Finding]:
        if self._clock.is_held:
            hint = "set the clock, with NTP where there is any"
            return [Finding("clock", Severity.ERROR, "the clock reads earlier than the configuration's signing", hint)]
        return [Finding("clock", Severity.OK, "the clock runs after the configuration was signed")]

    def _disk_checks(self) -> list[Finding]:
        if self._shell.store_error:
            hint = "free some space on the disk of the data directory"
            return [Finding("disk", Severity.ERROR, self._shell.store_error, hint)]
        free_mb = shutil.disk_usage(Path(self._files.settings.paths.data)).free // (1024 * 1024)
        hint = f"free some space below {self._files.settings.paths.data}"
        if free_mb < FULL_DISK_MB:
            message = f"the disk is full ({free_mb} MiB free): no new work is taken"
            return [Finding("disk", Severity.ERROR, message, hint)]
        if free_mb < LOW_DISK_MB:
            return [Finding("disk", Severity.WARNING, f"only {free_mb} MiB are free", hint)]
        return [Finding("disk", Severity.OK, f"{free_mb} MiB are free")]

    def _mesh_checks(self) -> list[Finding]:
        roster, view = self._composition.roster, self._composition.view
        absent = [self._name(member.node_id) for member in roster.members() if not view.is_alive(member.node_id)]
        listen = self._files.settings.listen
        findings = [Finding("ports", Severity.OK, f"gossip on {listen.gossip}, API on {listen.api}")]
        if absent:
            hint = "start them, or open UDP and TCP between the machines; remove them if they are gone for good"
            message = f"does not reach {', '.join(absent)}"
            findings.append(Finding("mesh", Severity.WARNING, message, hint))
        else:
            findings.append(Finding("mesh", Severity.OK, f"reaches all {len(roster.members())} members"))
        apart = {link["node"]: link["protocol_version"] for link in self.links()["links"]}
        strange = [f"{name} ({version})" for name, version in apart.items() if not gets_on_with(version)]
        if strange:
            hint = "upgrade the older ones: a mesh bears two neighbouring versions"
            message = f"speaks another protocol than {', '.join(strange)}"
            findings.append(Finding("protocol", Severity.ERROR, message, hint))
        if self._files.membership.allow_same_host:
            message = "beemesh_allow_same_host is set: agents on one machine count as separate custodians"
            findings.append(Finding("custody", Severity.WARNING, message, "for demos only: unset it in the inventory"))
        return findings


def membership_findings(membership: Membership, wall_ms: int) -> list[Finding]:
    """What `doctor` says of this node's own membership: past its grace the mesh shuts it out."""
    left_ms = membership.not_after_ms - wall_ms
    days = left_ms // 86_400_000
    if left_ms < 0:
        now = "in grace" if wall_ms <= membership.ends_ms else "shut out of the mesh"
        return [Finding("certificate", Severity.ERROR, f"the membership expired {-days} days ago; {now}", RENEWAL_HINT)]
    if left_ms < EXPIRY_WARNING_MS:
        return [Finding("certificate", Severity.WARNING, f"the membership expires in {days} days", RENEWAL_HINT)]
    return [Finding("certificate", Severity.OK, f"the membership is valid for {days} days")]


def grant_findings(grants: Iterable[Grant], wall_ms: int) -> list[Finding]:
    """What `doctor` says of operators whose grants have ended or soon will: then nobody may operate the mesh."""
    findings = []
    for grant in grants:
        days = (grant.not_after_ms - wall_ms) // 86_400_000
        if wall_ms > grant.not_after_ms:
            message = f"the grant of operator {grant.name} expired {-days} days ago"
            findings.append(Finding("grant", Severity.WARNING, message, f"{RENEWAL_HINT}; or revoke the operator"))
        elif grant.not_after_ms - wall_ms < EXPIRY_WARNING_MS:
            message = f"the grant of operator {grant.name} expires in {days} days"
            findings.append(Finding("grant", Severity.WARNING, message, RENEWAL_HINT))
    return findings or [Finding("grant", Severity.OK, "no operator's grant ends soon")]
