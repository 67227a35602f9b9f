"""What `apply` makes of objects: new revisions, nothing, or a record alone; and each workload's own identity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from cryptography import x509

from beemesh.crypto_native import NativeCrypto
from beemesh.custody.sealing import SealedContent, ShareOffer, context_of, decode_content, good_shares, open_content
from beemesh.errors import Untrusted
from beemesh.identity import certificates
from beemesh.identity.signing import decode_body
from beemesh.ids import short
from beemesh.intents.record import Intent
from beemesh.membership.roster import Roster
from beemesh.workloads.record import Workload
from beemesh.workloads.resolve import ResolvedWorkload, resolve
from beemesh.workloads.validation import check
from beemeshctl.applying import Change, Mesh, Planner
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
