"""Certificates: what OpenSSL accepts and refuses, and what only our own check after the handshake can refuse."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from agent.transport import tls
from agent.transport.tls import LEAF_RENEW_MS, TlsIdentity
from beemesh.crypto_native import NativeCrypto
from beemesh.errors import InvalidInput, Untrusted
from beemesh.identity import certificates
from beemesh.identity.certificates import LeafBundle
from beemesh.ids import node_id_of
from tests.unit.identity.cast import CA, MESH, NOW_MS, card, keys, record, revoke, roster
from tests.unit.identity.handshake import context, shake

WALL_MS = int(datetime.datetime.now(tz=datetime.UTC).timestamp() * 1000)
"""OpenSSL looks at the machine's own clock."""
DAY_MS = 86_400_000
CA_PEM = certificates.ca_certificate(CA, MESH, WALL_MS)
WORK_ROOT = keys("work root")
WORK_PEM = certificates.workload_root(WORK_ROOT, MESH, WALL_MS)
Kind = Literal["node", "operator"]


def issuing(kind: Kind, name: str, holder: NativeCrypto | None = None) -> bytes:
    """What the CA signs for a member."""
    key = (holder or keys(name)).sign_key
    return certificates.issuing_certificate(CA, CA_PEM, MESH, kind, name, key, WALL_MS, WALL_MS + DAY_MS)


def leaf(kind: Kind, name: str, *, of: str = "", at_ms: int = WALL_MS) -> LeafBundle:
    """A leaf that names `name`, issued by the keys and under the certificate of `of` (by default itself)."""
    owner = of or name
    return certificates.issue_leaf(keys(owner), MESH, kind, name, issuing(kind, owner), at_ms, DAY_MS)


def der(bundle: LeafBundle) -> bytes:
    """The leaf alone, as `getpeercert(binary_form=True)` gives it."""
    return x509.load_pem_x509_certificate(bundle.chain_pem).public_bytes(Encoding.DER)


@pytest.mark.parametrize("strict", [False, True])
def test_two_nodes_shake_hands_in_both_directions(strict: bool) -> None:
    """OpenSSL accepts both leaves for both purposes and by DNS name, and each side learns who the other is."""
    known = roster("n1", "n2")
    for client, server in (("n1", "n2"), ("n2", "n1")):
        served, asked = shake(
            context(CA_PEM, leaf("node", client), server=False, strict=strict),
            context(CA_PEM, leaf("node", server), server=True, strict=strict),
            f"{server}.node.{MESH}",
        )
        assert certificates.peer_of(served, MESH, known, WALL_MS).name == server
        assert certificates.peer_of(asked, MESH, known, WALL_MS) == certificates.Peer(
            "node", client, keys(client).signer_id
        )


def test_an_operator_is_told_from_a_node_of_the_same_name() -> None:
    """An operator's leaf names an operator, also where a node has the same name."""
    known = roster("alice", "n1", operators=("alice-op",))
    _, asked = shake(
        context(CA_PEM, leaf("operator", "alice-op"), server=False),
        context(CA_PEM, leaf("node", "n1"), server=True),
        f"n1.node.{MESH}",
    )
    peer = certificates.peer_of(asked, MESH, known, WALL_MS)
    assert (peer.kind, peer.name, peer.id) == ("operator", "alice-op", keys("alice-op").signer_id)
    with pytest.raises(Untrusted, match="was not signed with that key"):
        certificates.peer_of(der(leaf("node", "alice", of="alice-op")), MESH, known, WALL_MS)


def test_a_node_that_names_another_passes_x509_and_fails_ours() -> None:
    """X.509 cannot hold a node to its own URI path; `peer_of` does (this is why it must be called).

    The hostile leaf carries its owner's own DNS name, which the name constraints allow, and another's URI.
    """
    known = roster("n1", "n2", "n3")
    hostile = _leaf_with([_uri(f"spiffe://{MESH}/node/n2"), x509.DNSName(f"n1.node.{MESH}")], "n1")
    _, asked = shake(
        context(CA_PEM, hostile, server=False), context(CA_PEM, leaf("node", "n3"), server=True), f"n3.node.{MESH}"
    )
    with pytest.raises(Untrusted, match="names node n2, but was not signed with that key"):
        certificates.peer_of(asked, MESH, known, WALL_MS)


@pytest.mark.parametrize(
    "names",
    [
        [x509.UniformResourceIdentifier(f"spiffe://{MESH}/node/n1"), x509.DNSName(f"n2.node.{MESH}")],
        [x509.UniformResourceIdentifier("spiffe://other/node/n1"), x509.DNSName(f"n1.node.{MESH}")],
        [x509.UniformResourceIdentifier(f"spiffe://{MESH}.work/ns/a/b/c"), x509.DNSName(f"n1.node.{MESH}")],
    ],
    ids=["another's DNS name", "another mesh", "the work plane"],
)
def test_the_name_constraints_hold(names: list[x509.GeneralName]) -> None:
    """OpenSSL itself refuses leaves outside a node's DNS name and the mesh's trust domain."""
    with pytest.raises(ssl.SSLError, match="permitted subtree violation"):
        shake(
            context(CA_PEM, leaf("node", "n3"), server=False),
            context(CA_PEM, _leaf_with(names, "n1"), server=True),
            str(names[1].value),
        )


def test_an_address_in_a_leaf_is_refused() -> None:
    """All IP names are excluded: nobody becomes an address."""
    import ipaddress

    names: list[x509.GeneralName] = [
        _uri(f"spiffe://{MESH}/node/n1"),
        x509.DNSName(f"n1.node.{MESH}"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
    ]
    with pytest.raises(ssl.SSLError, match="excluded subtree violation"):
        shake(
            context(CA_PEM, leaf("node", "n3"), server=False),
            context(CA_PEM, _leaf_with(names, "n1"), server=True),
            f"n1.node.{MESH}",
        )


def test_a_node_cannot_make_another_issuer() -> None:
    """Path length 0: what a node signs for another issuer ends no chain. X.509 lets a certificate through that repeats
    its issuer's name (RFC 5280 calls it self-issued); its leaves are not signed by the node's key, so ours refuses."""
    friend, own = keys("friend"), issuing("node", "n1")
    for name, passes_x509 in (("n2", False), ("n1", True)):
        until_ms = WALL_MS + DAY_MS
        middle = certificates.issuing_certificate(
            keys("n1"), own, MESH, "node", name, friend.sign_key, WALL_MS, until_ms
        )
        names = [_uri(f"spiffe://{MESH}/node/n1"), x509.DNSName(f"n1.node.{MESH}")]
        made = certificates._leaf(friend, "friend", names, middle, WALL_MS, DAY_MS)
        chain = LeafBundle(made.chain_pem + own, made.private_key_pem)
        sides = (context(CA_PEM, leaf("node", "n3"), server=False), context(CA_PEM, chain, server=True))
        if passes_x509:
            served, _ = shake(*sides, f"n1.node.{MESH}")
            with pytest.raises(Untrusted, match="was not signed with that key"):
                certificates.peer_of(served, MESH, roster("n1"), WALL_MS)
        else:
            with pytest.raises(ssl.SSLError, match="path length constraint exceeded"):
                shake(*sides, f"n1.node.{MESH}")


def test_neither_plane_accepts_the_others_credentials() -> None:
    """A replica's leaf opens nothing in the machine plane, and a node's leaf nothing in the work plane: by OpenSSL, and
    by our own check too."""
    workload = keys("deployment/default/hello")
    issuing_pem = certificates.workload_issuing(
        WORK_ROOT, WORK_PEM, MESH, "default", "hello", workload.sign_key, WALL_MS, WALL_MS + DAY_MS
    )
    replica = certificates.issue_workload_leaf(
        workload, MESH, "default", "hello", "hello-1-0", issuing_pem, WALL_MS, DAY_MS
    )
    node = leaf("node", "n1")
    with pytest.raises(ssl.SSLError, match="unable to get local issuer certificate"):  # a replica calls a node
        shake(context(CA_PEM, replica, server=False), context(CA_PEM, node, server=True), f"n1.node.{MESH}")
    with pytest.raises(ssl.SSLError, match="unable to get local issuer certificate"):  # a node calls a replica
        client = context(WORK_PEM, node, server=False)
        client.check_hostname = False
        shake(client, context(WORK_PEM, replica, server=True), "hello")
    with pytest.raises(Untrusted, match="names nobody of mesh home"):
        certificates.peer_of(der(replica), MESH, roster("n1"), WALL_MS)
    with pytest.raises(Untrusted, match="names no replica"):
        certificates.replica_of(der(node), MESH, "default", "hello", keys("n1").sign_key, WALL_MS)


def test_a_replica_is_one_of_its_own_workload_only() -> None:
    """Replicas of one workload shake hands and know each other; another workload's key cannot name them."""
    workload, other = keys("hello"), keys("other")
    made = {}
    for name, key in (("hello", workload), ("other", other)):
        pem = certificates.workload_issuing(
            WORK_ROOT, WORK_PEM, MESH, "default", name, key.sign_key, WALL_MS, WALL_MS + DAY_MS
        )
        made[name] = certificates.issue_workload_leaf(
            key, MESH, "default", "hello", f"{name}-1-0", pem, WALL_MS, DAY_MS
        )
    client = context(WORK_PEM, made["hello"], server=False)
    client.check_hostname = False
    served, _ = shake(client, context(WORK_PEM, made["hello"], server=True), "hello")
    arguments = (MESH, "default", "hello", workload.sign_key, WALL_MS)
    assert certificates.replica_of(served, *arguments) == "hello-1-0"
    with pytest.raises(Untrusted, match="was not signed with that key"):
        certificates.replica_of(der(made["other"]), *arguments)
    with pytest.raises(Untrusted, match="names no replica of default/web"):
        certificates.replica_of(served, MESH, "default", "web", workload.sign_key, WALL_MS)


def test_a_revoked_or_unknown_node_is_refused() -> None:
    """A valid chain is worth nothing once the CA withdrew the node, or to whom does not know it."""
    known = roster("n1", "n2")
    shown = der(leaf("node", "n1"))
    revoke(known, "n1", keys("n1"))
    for directory in (known, roster("n2")):
        with pytest.raises(Untrusted, match="n1 is unknown here, or was revoked"):
            certificates.peer_of(shown, MESH, directory, WALL_MS)


def test_a_new_key_for_a_name_ends_the_old_one() -> None:
    """When the CA signed a new key for a name, leaves of the old key are refused though their chain still verifies."""
    known = roster("n1")
    fresh = keys("n1 anew")
    known.apply(record("membership", "node/n1", card("n1", fresh)))
    with pytest.raises(Untrusted, match="was not signed with that key"):
        certificates.peer_of(der(leaf("node", "n1")), MESH, known, WALL_MS)
    again = certificates.issue_leaf(fresh, MESH, "node", "n1", issuing("node", "n1", fresh), WALL_MS, DAY_MS)
    assert certificates.peer_of(der(again), MESH, known, WALL_MS).id == node_id_of(fresh.sign_key)


@pytest.mark.parametrize("off_ms", [-certificates.BACKDATED_MS - 1_000, DAY_MS + 1_000])
def test_a_leaf_has_its_time(off_ms: int) -> None:
    """Before its backdated beginning and after its end a leaf is refused; the error speaks of clocks."""
    with pytest.raises(Untrusted, match=r"is not valid (yet|any more)") as caught:
        certificates.peer_of(der(leaf("node", "n1", at_ms=NOW_MS)), MESH, roster("n1"), NOW_MS + off_ms)
    assert "clocks" in caught.value.hint


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [f"spiffe://{MESH}/node/n1", f"spiffe://{MESH}/node/n1"],
        [f"spiffe://{MESH}/node/n1\n"],
        [f"spiffe://{MESH}/node/n1/x"],
        [f"spiffe://{MESH}/host/n1"],
        [f"https://{MESH}/node/n1"],
        [f"spiffe://{MESH}.work/node/n1"],
        [f"spiffe://{MESH}/node/"],
    ],
)
def test_exactly_one_well_formed_uri(uris: list[str]) -> None:
    """A leaf with no URI, with two, or with one of another form is refused, whoever signed it."""
    names = [*(_uri(uri) for uri in uris), x509.DNSName(f"n1.node.{MESH}")]
    with pytest.raises(Untrusted, match=r"URIs, expected one|names nobody"):
        certificates.peer_of(der(_leaf_with(names, "n1")), MESH, roster("n1"), WALL_MS)


def test_an_issuing_certificate_is_no_identity() -> None:
    """What the CA signed for a node is for issuing: shown itself, it names nobody."""
    pem = issuing("node", "n1")
    with pytest.raises(Untrusted, match="0 URIs"):
        certificates.peer_of(
            x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER), MESH, roster("n1"), WALL_MS
        )


@given(st.binary(max_size=600))
def test_no_bytes_break_the_check(shown: bytes) -> None:
    """Whatever is shown as a certificate: `Untrusted`, never another exception."""
    with pytest.raises(Untrusted):
        certificates.peer_of(shown, MESH, roster("n1"), WALL_MS)


@given(st.data())
def test_no_altered_leaf_passes(data: st.DataObject) -> None:
    """A leaf with any one bit of what is signed, or of the signature, changed is refused, with `Untrusted`."""
    shown = bytearray(LEAF)
    parsed = x509.load_der_x509_certificate(LEAF)
    part = data.draw(st.sampled_from([parsed.tbs_certificate_bytes, parsed.signature]))
    bit = LEAF.index(part) * 8 + data.draw(st.integers(0, len(part) * 8 - 1))
    shown[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Untrusted):
        certificates.peer_of(bytes(shown), MESH, roster("n1"), WALL_MS)


def test_the_ca_key_is_read_back() -> None:
    """The CA's certificate gives its key; other texts are refused with what they are."""
    assert certificates.ca_public_key(CA_PEM) == CA.sign_key
    with pytest.raises(InvalidInput, match="not a PEM certificate"):
        certificates.ca_public_key(b"nothing")


def test_the_ca_signs_the_same_bytes_again() -> None:
    """Same keys, same time, same certificate: a second bootstrap changes nothing."""
    assert certificates.ca_certificate(CA, MESH, WALL_MS) == CA_PEM
    assert issuing("node", "n1") == issuing("node", "n1")


def test_an_issuing_certificate_lives_through_grace() -> None:
    """It ends 90 days after the membership: only revocation or the end of grace shuts a node out."""
    end = x509.load_pem_x509_certificate(issuing("node", "n1")).not_valid_after_utc
    assert int(end.timestamp()) == (WALL_MS + DAY_MS + certificates.ISSUING_GRACE_MS) // 1000


def _uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def _leaf_with(names: list[x509.GeneralName], owner: str) -> LeafBundle:
    """A leaf with any names, as a hostile owner of a real key would make it."""
    pem = issuing("node", owner)
    return certificates._leaf(keys(owner), "hostile", names, pem, WALL_MS, DAY_MS)


LEAF = der(leaf("node", "n1"))


def test_the_algorithm_outside_the_signature_is_the_one_inside() -> None:
    """The name of the algorithm beside the signature is not signed: any other than Ed25519 is refused."""
    algorithm = bytes.fromhex("06032b6570")
    place = LEAF.rindex(algorithm)
    assert place > LEAF.index(algorithm)
    with pytest.raises(Untrusted):
        certificates.peer_of(
            LEAF[:place] + bytes.fromhex("06032b6571") + LEAF[place + 5 :], MESH, roster("n1"), WALL_MS
        )


HOUR_MS = 3_600_000


class Machine:
    """A node's end of TLS under a clock of its own, `off_ms` from the right one."""

    def __init__(self, name: str, off_ms: int = 0) -> None:
        self.off_ms = off_ms
        self.name = name
        self.tls = TlsIdentity(
            mesh=MESH,
            name=name,
            crypto=keys(name),
            ca_pem=CA_PEM,
            issuing_pem=issuing("node", name),
            roster=roster("n1", "n2", operators=("op",)),
            wall_ms=lambda: WALL_MS + self.off_ms,
        )

    def look(self) -> bool:
        """What the agent does again and again; whether a leaf was issued."""
        due = self.tls.is_due
        if due:
            self.tls.renew()
        return due

    def meets(self, other: Machine) -> None:
        """Shake hands with another node, called and calling, and with an operator; raises what one of them raises."""
        for client, server in ((self.tls, other.tls), (other.tls, self.tls)):
            served, asked = shake(client.client, server.streams_server, server.dns_name(server.name))
            certificates.peer_of(served, MESH, roster("n1", "n2"), WALL_MS + other.off_ms)
            certificates.peer_of(asked, MESH, roster("n1", "n2"), WALL_MS + other.off_ms)
        operator = context(CA_PEM, leaf("operator", "op"), server=False)
        shake(operator, self.tls.api_server, self.tls.dns_name(self.name))


@pytest.mark.parametrize("ahead_ms", [2 * HOUR_MS, 10 * HOUR_MS, 20 * DAY_MS])
def test_a_clock_that_was_ahead_shuts_nobody_out_once_it_is_right(ahead_ms: int) -> None:
    """A leaf from a time that is still to come is issued anew: every context of the running agent shows it at once."""
    machine, other = Machine("n1", ahead_ms), Machine("n2")
    machine.off_ms = 60_000
    with pytest.raises((Untrusted, ssl.SSLError), match=r"not valid yet|not yet valid"):
        machine.meets(other)

    assert machine.look()

    machine.meets(other)
    assert not machine.look()


def test_a_clock_that_is_set_back_a_little_costs_at_most_one_leaf() -> None:
    """Corrections while it runs renew nothing, and one right after a renewal renews once more; after that, no more
    before a third of the leaf's life is over. Peers whose clocks are minutes behind accept it from the start."""
    machine, behind = Machine("n1"), Machine("n2", -8 * 60_000)
    looks = []
    for off_ms in (-5, 995, 990, 1_990, 1_000, HOUR_MS, HOUR_MS - 2_000, LEAF_RENEW_MS - 6, LEAF_RENEW_MS - 5):
        machine.off_ms = off_ms
        looks.append(machine.look())
        behind.off_ms = off_ms - 8 * 60_000
        behind.tls.renew()
        if off_ms < HOUR_MS:
            machine.meets(behind)

    assert looks == [True, *[False] * 7, True]


def test_a_machine_that_slept_for_days_has_a_fresh_leaf_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's clock does not count the time asleep: whatever was left of its wait is waited for after waking."""
    machine, waits_s = Machine("n1"), list[float]()

    async def sleep(seconds: float) -> None:
        """Friday evening is in the middle of the first wait, and Monday morning too."""
        if waits_s:
            raise asyncio.CancelledError
        waits_s.append(seconds)
        machine.off_ms += 3 * DAY_MS

    monkeypatch.setattr(tls.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(machine.tls.stay_valid())

    assert waits_s[0] <= 5
    assert not machine.tls.is_due
