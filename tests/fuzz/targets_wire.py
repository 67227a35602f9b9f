"""Targets: what comes over the wire, before anybody is believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from beemesh.composition import decode_body
from beemesh.custody.sealing import SealedContent, decode_content
from beemesh.effects import Now
from beemesh.errors import BeemeshError, InvalidInput, Untrusted
from beemesh.identity import key_rotation
from beemesh.identity.certificates import (
    ca_certificate,
    ca_public_key,
    issue_leaf,
    issue_workload_leaf,
    issuing_certificate,
    peer_of,
    replica_of,
    workload_issuing,
)
from beemesh.identity.grants import Grant, Revocation
from beemesh.identity.membership_card import Membership
from beemesh.identity.requests import NonceCache, read_claim, sign_request, verify_request
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import from_text, to_text
from beemesh.intents.entitlement import _own_key, verify_intent
from beemesh.intents.map import IntentMap
from beemesh.intents.record import SIGNED_KIND, Cordon, Intent, IntentKind
from beemesh.membership import claims
from beemesh.membership.messages import Claim
from beemesh.scheduling.quotas import Policies
from beemesh.secret import SecretBytes
from beemesh.settings import parse_endpoint
from beemesh.wire.datagram import cipher_of, read_header, write_header
from beemesh.wire.envelope import Envelope
from beemesh.wire.framing import FrameDecoder
from beemesh.wire.registry import TYPES, decode_message
from beemesh.workloads.budgets import Budget
from beemesh.workloads.policies import PriorityClass, Quota
from beemesh.workloads.record import SealedObject, Workload
from tests.fuzz.examples import encoded_example
from tests.fuzz.target import Call, Target
from tests.unit.identity.cast import CA, NOW_MS, card, grant, keys, roster
from tests.unit.wire.samples import NOW, PING, RING, Speaker, gate, header_of

VECTORS = Path(__file__).parents[1] / "vectors"
KEY = RING.keys[1].key


def vectors(name: str) -> Any:
    """A file of pinned examples."""
    return json.loads((VECTORS / f"{name}.json").read_text())


def _datagrams() -> list[bytes]:
    return [bytes.fromhex(vector["datagram"]) for vector in vectors("datagram")]


def _admit() -> Call:
    def call(data: bytes) -> None:
        gate("a", "b").admit(data, NOW, ("10.0.0.1", 7946))
        read_header(data)

    return call


def _plaintexts() -> list[bytes]:
    speaker = Speaker("a")
    found = []
    for _ in range(2):
        data = speaker.say(PING)
        header = read_header(data)
        assert header is not None
        plaintext = cipher_of(speaker.crypto, KEY, header).decrypt(header.counter, data[61:], data[:61])
        assert plaintext is not None
        found.append(plaintext)
    return [*found, msgspec.msgpack.encode(Envelope(1, NOW_MS, b"\x90", bytes(64)))]


def _admit_plaintext() -> Call:
    """A member may encrypt whatever it likes under the gossip key."""
    made = gate("a")
    header = header_of(keys("a").signer_id, 1)
    cipher = cipher_of(keys("a"), KEY, header)
    return lambda data: made.admit(write_header(header) + cipher.encrypt(1, data[:1_100], write_header(header)), NOW)


def _bodies() -> list[bytes]:
    return [code.to_bytes(2, "big") + encoded_example(kind) for code, kind in TYPES.items()]


def _message() -> Call:
    """A body with the number of its type in front, as topics carry it."""

    def call(data: bytes) -> None:
        decode_body(data)
        decode_message(int.from_bytes(data[:2], "big"), data[2:])

    return call


def _message_of_any_type() -> Call:
    def call(data: bytes) -> None:
        for code, kind in TYPES.items():
            decoded = decode_message(code, data)
            assert decoded is None or type(decoded) is kind

    return call


def _frames() -> list[bytes]:
    frames = [bytes.fromhex(vector["frame"]) for vector in vectors("frame")]
    return [*frames, b"".join(frames)]


def _framing() -> Call:
    """Whole, and byte by byte: both see the same frames, and the same end."""

    def read(parts: Iterator[bytes]) -> tuple[list[Any], bool]:
        decoder, frames = FrameDecoder(), []
        try:
            for part in parts:
                for frame in decoder.feed(part):
                    decode_message(frame.type_code, frame.body)
                    frames.append(frame)
        except InvalidInput:
            return frames, True
        return frames, False

    def call(data: bytes) -> None:
        whole = read(iter([data]))
        if len(data) < 4_096:
            assert read(data[at : at + 1] for at in range(len(data))) == whole

    return call


# --- signed things ---------------------------------------------------------------------------------------------------

_BODIES: dict[IntentKind, tuple[str, Callable[[], msgspec.Struct]]] = {
    "membership": ("node/a", lambda: card("a")),
    "grant": ("operator/ops", lambda: grant("ops")),
}


def intent_kinds() -> dict[str, type[msgspec.Struct]]:
    """The body that belongs to each kind of intent; a tombstone has none."""
    bodies: dict[str, type[msgspec.Struct]] = {
        "membership": Membership,
        "grant": Grant,
        "revocation": Revocation,
        "budget": Budget,
        "cordon": Cordon,
        "workload": Workload,
        "object": SealedObject,
        "ring": key_rotation.Rotation,
        "quota": Quota,
        "priority": PriorityClass,
    }
    assert {*bodies, "tombstone"} == set(get_args(IntentKind))
    return bodies


def _intents() -> list[bytes]:
    """Real ones of the CA, and one of an example of every kind."""
    made = [
        sign_statement(
            CA, SIGNED_KIND, Intent("home", kind, key, 1, CA.signer_id, NOW_MS, msgspec.msgpack.encode(body()))
        )
        for kind, (key, body) in _BODIES.items()
    ]
    for name, body_type in intent_kinds().items():
        body = encoded_example(body_type)
        intent = msgspec.convert(
            {"mesh": "home", "kind": name, "key": "", "seq": 1, "author": CA.signer_id, "issued_ms": 1, "body": body},
            Intent,
        )
        made.append(sign_statement(CA, SIGNED_KIND, msgspec.structs.replace(intent, key=_own_key(intent))))
    return [msgspec.msgpack.encode(signed) for signed in made]


class Resigned:
    """A verifier for which every signature holds: what a signer with real keys could make anybody read."""

    def __init__(self) -> None:
        self._crypto = keys("receiver")

    def verify(self, _public_key: bytes, _payload: bytes, _signature: bytes) -> bool:
        """Yes."""
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._crypto, name)


def _signed(data: bytes) -> Signed | None:
    try:
        return msgspec.msgpack.decode(data, type=Signed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _intent() -> Call:
    """A record whose signature holds: read, put into the map, applied to the roster, and asked what it allows."""
    crypto: Any = Resigned()
    workload = msgspec.msgpack.decode(encoded_example(Workload), type=Workload)

    def call(data: bytes) -> None:
        signed = _signed(data)
        if signed is not None:
            known = roster("a", operators=("ops",))
            intents = IntentMap(crypto, known)
            intents.merge(signed, Now(0.0, 0))
            known.apply(verify_intent(crypto, roster("b", operators=("ops",)), signed))
            policies = Policies(intents.items)
            for intent, _ in intents.items():
                policies.objection(intent, None)
                namespace = intent.key.split("/")[2:3]
                policies.allowed(msgspec.structs.replace(workload, namespace="".join(namespace)))

    return call


def _map_rows() -> Call:
    crypto: Any = Resigned()

    def call(data: bytes) -> None:
        made = IntentMap(crypto, roster("a", operators=("ops",)))
        made.restore([(data[:8], data), (b"node/a", data)])

    return call


def _claims() -> list[bytes]:
    return [
        msgspec.msgpack.encode(Claim(kind, encoded_example(body), bytes(64)))
        for kind, body in claims.STATEMENTS.items()
    ]


def _claim() -> Call:
    def call(data: bytes) -> None:
        try:
            claim = msgspec.msgpack.decode(data, type=Claim)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        claims.decode(claim)

    return call


def _leaves() -> list[bytes]:
    node = keys("a")
    root, end_ms = ca_certificate(CA, "home", NOW_MS), NOW_MS + 86_400_000
    issuing = issuing_certificate(CA, root, "home", "node", "a", node.sign_key, NOW_MS, end_ms)
    leaf = issue_leaf(node, "home", "node", "a", issuing, NOW_MS, 86_400_000)
    work = workload_issuing(CA, root, "home", "default", "hello", node.sign_key, NOW_MS, end_ms)
    replica = issue_workload_leaf(node, "home", "default", "hello", "hello-0", work, NOW_MS, 86_400_000)
    return [
        x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        for pem in (leaf.chain_pem, replica.chain_pem, issuing)
    ]


def _leaf() -> Call:
    known = roster("a", "b")

    def call(data: bytes) -> None:
        for read in (
            lambda: peer_of(data, "home", known, NOW_MS),
            lambda: replica_of(data, "home", "default", "hello", keys("a").sign_key, NOW_MS),
        ):
            try:
                read()
            except Untrusted:
                continue

    return call


def _pems() -> list[bytes]:
    return [ca_certificate(CA, "home", NOW_MS)]


def _headers() -> list[bytes]:
    signed = sign_request(keys("ops"), "GET", "/api/v1/pods?watch=1", b"", NOW_MS, b"n" * 16)
    return [json.dumps(signed).encode()]


def _request() -> Call:
    nonces = NonceCache()
    known = roster("a", operators=("ops",))

    def call(data: bytes) -> None:
        try:
            headers = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values()):
            claim = read_claim(headers)
            found = known.grant(claim.operator_id)
            verify_request(keys("a"), claim, found, "GET", "/api/v1/pods?watch=1", b"", NOW_MS)
            nonces.enter(claim, NOW_MS)

    return call


def _sealed() -> Call:
    return lambda data: decode_content(SecretBytes(data))


def _texts(*words: str) -> Callable[[], list[bytes]]:
    return lambda: [word.encode() for word in words]


def _of_text(read: Callable[[str], Any]) -> Callable[[], Call]:
    return lambda: lambda data: read(data.decode("utf-8", "surrogateescape"))


TARGETS = (
    Target("datagram", "bytes", _admit, _datagrams),
    Target("envelope", "msgpack", _admit_plaintext, _plaintexts),
    Target("message", "msgpack", _message, _bodies, head=2),
    Target("message-of-any-type", "msgpack", _message_of_any_type, lambda: [body[2:] for body in _bodies()]),
    Target("frames", "bytes", _framing, _frames),
    Target("intent", "msgpack", _intent, _intents, (Untrusted,)),
    Target("intent-rows", "msgpack", _map_rows, _intents),
    Target("claim", "msgpack", _claim, _claims),
    Target("leaf-certificate", "bytes", _leaf, _leaves),
    Target("ca-certificate", "bytes", lambda: ca_public_key, _pems, (InvalidInput,)),
    Target("request-headers", "json", _request, _headers, (BeemeshError,)),
    Target("sealed-content", "msgpack", _sealed, lambda: [encoded_example(SealedContent)], (Untrusted,)),
    Target("id", "text", _of_text(from_text), lambda: [to_text(bytes(32)).encode()], (InvalidInput,)),
    Target("endpoint", "text", _of_text(parse_endpoint), _texts("0.0.0.0:7946", "[::1]:80", "name:1"), (InvalidInput,)),
)
