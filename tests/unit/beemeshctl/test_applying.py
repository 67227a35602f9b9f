"""What `apply` makes of objects: new revisions, nothing, or a record alone; and each workload's own identity."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from cryptography import x509

from beemesh.crypto_native import NativeCrypto
from beemesh.custody.sealing import SealedContent, ShareOffer, context_of, decode_content, good_shares, open_content
from beemesh.errors import KeepersFailed, Untrusted
from beemesh.identity import certificates
from beemesh.identity.signing import decode_body
from beemesh.ids import short
from beemesh.intents.record import Intent
from beemesh.membership.roster import Roster
from beemesh.workloads.record import Workload
from beemesh.workloads.resolve import ResolvedWorkload, resolve
from beemesh.workloads.validation import check
from beemeshctl.applying import CUSTODIANS_MIN, PLANS_MAX, Change, Handing, Mesh, Planner
from beemeshctl.bootstrap.signing import Authority
from beemeshctl.client import Client
from beemeshctl.context import Home
from beemeshctl.keyfile import Passphrase
from tests.unit.identity.cast import MESH, NOW_MS, card, keys

NODE = keys("n1")
DAY_MS = 86_400_000


def deployment(name: str, replicas: int, image: str) -> ResolvedWorkload:
    """A Deployment, ready to be sealed."""
    labels = {"app": name}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": image}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pod}
    checked = check({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})
    assert checked.object is not None
    return resolve([checked.object]).workloads[0]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """The home of an operator whose mesh was just made."""
    home = Home(tmp_path / "home")
    Authority(home, Passphrase(none=True)).create(MESH, "ada", NOW_MS)
    return home


Plan = Callable[..., Change]


@pytest.fixture
def plan(home: Home) -> Plan:
    """Plans one Deployment against a mesh of one node that holds these former records."""

    def planned(
        before: Change | None = None, *, name: str = "hello", replicas: int = 1, image: str = "web:1"
    ) -> Change:
        roster = cast(Roster, SimpleNamespace(keepers=lambda: [card("n1")]))
        mesh = Mesh(roster, {bytes(card("n1").node_id): "alive"}, {})
        if before is not None and before.record is not None:
            mesh.intents[before.key] = decode_body(before.record, Intent)
        client = cast(Client, SimpleNamespace(home=home, mesh=MESH, operator=home.operator()))
        return Planner(client, mesh).workload(deployment(name, replicas, image))

    return planned


def body(change: Change) -> Workload:
    """The record that members see."""
    assert change.record is not None
    return msgspec.msgpack.decode(decode_body(change.record, Intent).body, type=Workload)


def opened(change: Change) -> SealedContent:
    """What the one custodian reads, which here has won the work as well."""
    revision = body(change).current
    offers = [ShareOffer(card("n1").node_id, index, box) for index, box in change.boxes]
    shares, _ = good_shares(NODE, revision.sealing, offers, short)
    context = context_of(MESH, change.key, revision)
    return decode_content(open_content(NODE, context, revision, shares, change.ciphertext))


def issuer(content: SealedContent) -> NativeCrypto:
    """The issuing key inside."""
    return NativeCrypto(content.issuing_key, bytes(32))


def test_whoever_runs_a_workload_can_issue_its_replicas_identities(plan: Plan) -> None:
    """The sealed content holds the key and its certificate; the record its public half, which verifiers check."""
    change = plan()
    content = opened(change)
    leaf = certificates.issue_workload_leaf(
        issuer(content), MESH, "default", "hello", "hello-1-0", content.issuing_pem, NOW_MS, DAY_MS
    )
    der = x509.load_pem_x509_certificates(leaf.chain_pem)[0].public_bytes(certificates.Encoding.DER)
    arguments = (MESH, "default", "hello", body(change).issuing_key, NOW_MS)
    assert certificates.replica_of(der, *arguments) == "hello-1-0"
    with pytest.raises(Untrusted):
        certificates.replica_of(der, MESH, "default", "hello", body(plan(name="other")).issuing_key, NOW_MS)


def test_the_chain_ends_at_the_work_root_and_not_at_the_mesh_ca(plan: Plan, home: Home) -> None:
    """What is sealed carries the root of the work plane; the machines' CA has signed none of it."""
    issuing, root = x509.load_pem_x509_certificates(opened(plan()).issuing_pem)
    ca = x509.load_pem_x509_certificate(home.ca_pem())
    issuing.verify_directly_issued_by(root)
    assert root.public_bytes(certificates.Encoding.PEM) == home.work_pem()
    assert ca.public_key() != root.public_key()
    with pytest.raises(ValueError, match="does not match"):
        issuing.verify_directly_issued_by(ca)


def test_revisions_keep_the_identity_and_siblings_have_their_own(plan: Plan) -> None:
    """A changed manifest is a new revision with the same issuing key; another workload never has it."""
    first = plan()
    second = plan(first, image="web:2")
    assert second.revision == 2
    assert body(second).issuing_key == body(first).issuing_key == issuer(opened(second)).sign_key
    assert body(plan(name="other")).issuing_key != body(first).issuing_key


def test_a_workload_made_anew_has_a_new_identity(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `delete` the old key is worth nothing."""
    monkeypatch.setattr("beemeshctl.applying.wall_ms", lambda: NOW_MS)
    first = plan()
    monkeypatch.setattr("beemeshctl.applying.wall_ms", lambda: NOW_MS + DAY_MS)
    assert body(plan()).issuing_key != body(first).issuing_key


def test_the_same_again_sends_nothing(plan: Plan) -> None:
    """Neither a new seal nor a new record."""
    again = plan(plan())
    assert (again.verb, again.record, again.ciphertext) == ("unchanged", None, b"")


def test_more_replicas_seal_nothing(plan: Plan) -> None:
    """What is outside the template changes the record alone: pods that run are not replaced."""
    first = plan()
    scaled = plan(first, replicas=3)
    assert (scaled.verb, scaled.fields, scaled.ciphertext, scaled.boxes) == ("configured", ("replicas",), b"", ())
    assert body(scaled).revisions == body(first).revisions


def test_nothing_prints_the_issuing_key(plan: Plan, home: Home) -> None:
    """Neither a change nor the content shows it."""
    change = plan()
    assert opened(change).issuing_key.hex() not in repr(change) + repr(opened(change))
    assert home.work_key_file.stat().st_mode & 0o777 == 0o600


class SomeSaveNothing:
    """A mesh of keepers some of which are alive and save nothing; whoever hands in is told of the first of them."""

    def __init__(self, home: Home, keepers: int, mute: Collection[str]) -> None:
        self.cards = [card(f"n{number}") for number in range(keepers)]
        self._names = {each.node_id: each.name for each in self.cards}
        self._mute = mute
        self.asked: list[list[str]] = []
        self.accepted: list[Change] = []
        self.warned: list[str] = []
        self.client = cast(Client, SimpleNamespace(home=home, mesh=MESH, operator=home.operator(), post=self.post))
        roster = cast(Roster, SimpleNamespace(keepers=lambda: self.cards))
        self.planner = Planner(self.client, Mesh(roster, {bytes(each.node_id): "alive" for each in self.cards}, {}))
        self.handing = Handing(self.client, self.warned.append)

    def post(self, _path: str, given: dict[str, Any], **_query: Any) -> None:
        """Take a submission, or name who failed."""
        revision = msgspec.msgpack.decode(decode_body(given["record"], Intent).body, type=Workload).current
        named = {*revision.holders, *(ticket.custodian for ticket in revision.sealing.tickets)}
        self.asked.append(sorted(self._names[each] for each in named))
        if failed := [name for name in self.asked[-1] if name in self._mute]:
            raise KeepersFailed("not all keepers saved their part", tuple(failed[:1]))


def test_keepers_that_save_nothing_are_left_out(home: Home) -> None:
    """One that is alive, with a full disk perhaps, does not keep anything from being applied; who applies is told, once
    for all that is applied together."""
    mesh = SomeSaveNothing(home, 5, {"n3"})
    changes = [mesh.planner.workload(deployment(name, 1, "web:1")) for name in ("hello", "other")]
    for change in changes:
        mesh.handing.submit(change)

    assert [("n3" in asked) for asked in mesh.asked] == [True, False, False]
    assert len(mesh.warned) == 1
    assert "n3" in mesh.warned[0]


def test_it_is_tried_a_few_times_and_not_for_ever(home: Home) -> None:
    """A mesh where many fail is told as it is."""
    mesh = SomeSaveNothing(home, 30, {f"n{number}" for number in range(30)})
    with pytest.raises(KeepersFailed):
        mesh.handing.submit(mesh.planner.workload(deployment("hello", 1, "web:1")))

    assert len(mesh.asked) == PLANS_MAX


def test_what_two_keepers_had_to_open_together_is_not_sealed_to_each_alone(home: Home) -> None:
    """A keeper that saves nothing must not bring that about by its silence: it is refused, and nobody left out."""
    for keepers, accepted in ((CUSTODIANS_MIN, False), (CUSTODIANS_MIN + 1, True)):
        mesh = SomeSaveNothing(home, keepers, {"n0"})
        change = mesh.planner.workload(deployment("hello", 1, "web:1"))
        if accepted:
            mesh.handing.submit(change)
            continue
        with pytest.raises(KeepersFailed):
            mesh.handing.submit(change)
        assert (len(mesh.asked), mesh.warned) == (1, [])
