"""Messages by number: numbers are for ever, and what must fit a datagram does."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.custody import messages as custody
from beemesh.identity.signing import Signed, sign_statement
from beemesh.ids import Digest, NodeId
from beemesh.intents import messages as intents
from beemesh.intents.record import IntentVersion
from beemesh.membership import messages as membership
from beemesh.membership.claims import CLAIM_OVERHEAD_BYTES
from beemesh.membership.rumours import GOSSIP_BYTES_MAX
from beemesh.membership.summaries import SUMMARY_BODY_BYTES_MAX
from beemesh.scheduling import messages as scheduling
from beemesh.topics.chunks import is_chunked, split
from beemesh.topics.messages import IHave, IWant, TopicMessage
from beemesh.wire.datagram import BODY_BYTES_MAX
from beemesh.wire.registry import CODES, TYPES, decode_message, encode_message
from beemesh.workloads.record import Constraints, HostPort, Qos, Requirements, Toleration
from tests.unit.identity.cast import NOW_MS, keys

ROOMS = {
    "membership": range(1, 20),
    "topics": range(20, 30),
    "leases": range(30, 40),
    "intents": range(40, 50),
    "scheduling": range(50, 60),
    "custody": range(60, 70),
    "observation": range(70, 80),
    "relay": range(80, 90),
}
PINNED: dict[str, str] = json.loads((Path(__file__).parents[2] / "vectors" / "messages.json").read_text())

NODE = NodeId(b"\xff" * 32)
HUGE = 2**63
NONCE = b"12345678"
CLAIM = membership.Claim("summary", bytes(SUMMARY_BODY_BYTES_MAX), bytes(64))
NAME = "n" * 24
"""Longer than most names; with the longest that Kubernetes allows (63), a task may go over a stream instead."""


def test_numbers_are_for_ever() -> None:
    """A number keeps its message: new ones are added to the pinned list, and none is taken off or moved."""
    present = {str(code): f"{kind.__module__}.{kind.__name__}" for code, kind in TYPES.items()}
    assert present == PINNED


def test_every_number_lies_in_its_room() -> None:
    """Numbers are unique, and each room keeps to its own."""
    assert len(CODES) == len(TYPES)
    assert all(any(code in numbers for numbers in ROOMS.values()) for code in TYPES)


def test_an_unknown_number_is_no_message() -> None:
    """A newer peer's message is None."""
    assert decode_message(19, b"\x90") is None


@given(code=st.sampled_from(sorted(TYPES)), body=st.binary(max_size=200))
def test_no_bytes_raise(code: int, body: bytes) -> None:
    """Whatever the body: a message of that type, or None."""
    decoded = decode_message(code, body)
    assert decoded is None or type(decoded) is TYPES[code]


@pytest.mark.parametrize("body", [b"\x93\xa1\xff\xc4\x00\xc4\x00", b"\x91" * 100_000, b"\x91\xdd\xff\xff\xff\xff"])
@pytest.mark.parametrize("code", sorted(TYPES))
def test_nasty_bodies_are_none(code: int, body: bytes) -> None:
    """Text that is no UTF-8, bottomless nesting and announced gigabytes are refused at once, or never looked at."""
    decoded = decode_message(code, body)
    assert decoded is None or not TYPES[code].__struct_fields__


@pytest.mark.parametrize(
    "message",
    [
        scheduling.GetLease("lease/x/0"),
        custody.ReleaseAnswer(True, 1, b"box"),
        membership.PushPullAnswer((), (NodeId(b"n" * 32),)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_newer_peers_fields_are_ignored(message: msgspec.Struct) -> None:
    """A field that this version does not know does not keep the rest from being read."""
    code, body = encode_message(message)
    newer = {**msgspec.msgpack.decode(body), "a field of the future": [1, {"deep": b"x"}]}
    assert decode_message(code, msgspec.msgpack.encode(newer)) == message


def test_a_newer_peers_elements_are_ignored() -> None:
    """The same for positional messages: more elements than are known here."""
    assert decode_message(2, msgspec.msgpack.encode([NONCE, [], {"future": 1}])) == membership.Ack(NONCE)


def _signed(kind: str, statement: msgspec.Struct) -> Signed:
    return sign_statement(keys("a"), kind, statement)


def _on_topic(message: msgspec.Struct, topic: str) -> TopicMessage:
    _, body = encode_message(message)
    return TopicMessage(topic, bytes(16), b"\xcc\xff" + body, 255)


TASK = scheduling.Task(
    task_id="7" * 26,
    workload_id=f"deployment/{NAME}/{NAME}",
    namespace=NAME,
    kind="Deployment",
    revision=10_000,
    replica=10_000,
    manifest_ref=Digest(bytes(32)),
    record_digest=Digest(bytes(32)),
    expires_ms=NOW_MS,
    issued_ms=NOW_MS,
    nonce=bytes(16),
    attempt=99,
    reqs=Requirements(64_000, 512_000, 512_000, (HostPort(65_535, "TCP", 65_535, "http"),) * 2, 8),
    qos=Qos(10_000, True, "BestEffort"),
    constraints=Constraints(
        node_selector={"zone": NAME}, tolerations=(Toleration("key", "Equal", "value", "NoSchedule"),)
    ),
    avoid=(NODE,) * 3,
    duplicate_tolerant=False,
    restart="with-peers",
)
BID = scheduling.Bid(
    task_id="7" * 26,
    node_id=NODE,
    score=0.123456789,
    issued_ms=NOW_MS,
    expires_ms=NOW_MS,
    nonce=bytes(16),
    fit={"cpu": 0.1, "memory": 0.1, "storage": 0.1, "gpus": 0.1},
    reasons={"fit": 0.1, "locality": 0.1, "reliability": 0.1, "price": 0.1, "penalty": 0.1},
    capabilities=("podman", "gpu"),
)
EVENT = scheduling.Event(
    event_id="7" * 26,
    node_id=NODE,
    status="ShareReleased",
    issued_ms=NOW_MS,
    task_id="7" * 26,
    workload_id=f"deployment/{NAME}/{NAME}",
    namespace=NAME,
    revision=10_000,
    replica=10_000,
    reason="r" * 200,
    details={"pod": f"{NAME}-10000-10000", "pod_manifest": "a" * 32},
)

SIZES: dict[str, tuple[msgspec.Struct, int]] = {
    "ping, full of claims": (membership.Ping(NONCE, (CLAIM,) * 2, True), 969),
    "ack": (membership.Ack(NONCE), 12),
    "ping request": (membership.PingReq(NONCE, NODE), 46),
    "nack": (membership.Nack(NONCE), 11),
    "claims": (membership.Claims((CLAIM,) * 2, (NODE,)), 993),
    "ids of topic messages": (IHave((bytes(16),) * 50), 905),
    "wanted topic messages": (IWant((bytes(16),) * 50), 904),
    "task": (_on_topic(scheduling.SignedTask(_signed("task", TASK)), scheduling.TOPIC_TASKS), 960),
    "bid": (_on_topic(scheduling.SignedBid(_signed("bid", BID)), scheduling.TOPIC_PROPOSALS), 526),
    "event": (_on_topic(scheduling.SignedEvent(_signed("event", EVENT)), scheduling.TOPIC_EVENTS), 781),
    "call for bids": (scheduling.CallForBids(_signed("task", TASK)), 917),
    "offer": (scheduling.Offer("7" * 26, BID), 379),
    "refusal": (scheduling.Offer("7" * 26, None, ("r" * 200,) * 4, 5_000), 864),
    "award to one that stepped in": (scheduling.Award("7" * 26, _signed("task", TASK)), 952),
    "event of a large mesh": (scheduling.SignedEvent(_signed("event", EVENT)), 737),
    "intent news": (
        _on_topic(
            intents.IntentNews(
                intents.IntentEntry(f"workload/deployment/{NAME}/{NAME}", IntentVersion(HUGE, HUGE, bytes(32)))
            ),
            intents.TOPIC_INTENTS,
        ),
        161,
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_size_of_every_datagram_message_is_pinned(name: str) -> None:
    """The largest usual form of what goes by datagram has this size, and fits."""
    message, pinned = SIZES[name]
    _, body = encode_message(message)
    assert len(body) == pinned
    assert len(body) <= BODY_BYTES_MAX


def test_claims_within_their_budget_fit_a_datagram() -> None:
    """As many claims as gossip packs into a ping leave room for the ping itself."""
    size = GOSSIP_BYTES_MAX - 64 - CLAIM_OVERHEAD_BYTES
    _, body = encode_message(membership.Ping(NONCE, (membership.Claim("summary", bytes(size), bytes(64)),), True))
    assert len(body) <= BODY_BYTES_MAX


def test_a_record_inside_its_news_goes_in_a_few_datagrams() -> None:
    """A signed record of the size that is sent inline, with the longest key and the topic's wrapping around it, is
    chunked and needs no stream."""
    entry = intents.IntentEntry(f"workload/deployment/{'n' * 63}/{'n' * 63}", IntentVersion(HUGE, HUGE, bytes(32)))
    record = Signed("intent", b"", bytes(32), bytes(64))
    padding = intents.INLINE_BYTES_MAX - len(msgspec.msgpack.encode(record)) - 1
    record = Signed("intent", bytes(padding), bytes(32), bytes(64))
    assert len(msgspec.msgpack.encode(record)) == intents.INLINE_BYTES_MAX
    message = _on_topic(intents.IntentNews(entry, record), intents.TOPIC_INTENTS)
    assert is_chunked(message)
    assert len(split(message)) <= 6
