"""Puts a node's protocols together, in the order in which they start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from beemesh import __version__
from beemesh.crypto import Crypto
from beemesh.custody.custodians import Custodian
from beemesh.custody.local_copies import LocalCopies
from beemesh.custody.proofs import check_proof
from beemesh.custody.release import Opener
from beemesh.custody.submission import Submission
from beemesh.dht.announcer import Announcer
from beemesh.dht.claims import Claims
from beemesh.dht.compare_and_swap import LeaseReplica
from beemesh.dht.contacts import RosterContacts
from beemesh.dht.directory import Directory
from beemesh.dht.records import MACHINE_RECORDS, Domain
from beemesh.dispatch import Participant
from beemesh.effects import Randomness
from beemesh.identity.membership_card import GossipRing, Membership
from beemesh.identity.signing import Signed
from beemesh.ids import BootId, NodeId
from beemesh.intents.entitlement import verify_intent
from beemesh.intents.map import IntentMap
from beemesh.intents.record import Intent
from beemesh.intents.sync import IntentSync
from beemesh.membership.held_clock import ClockWitnesses
from beemesh.membership.keyring import Keyring
from beemesh.membership.roster import Roster
from beemesh.membership.self_summary import SelfSummary
from beemesh.membership.settings import SelfFacts, SwimSettings
from beemesh.membership.swim import Swim
from beemesh.membership.view import View
from beemesh.node import Node, is_cold
from beemesh.scheduling.auction.bidding import Bidder
from beemesh.scheduling.auction.calling import Caller
from beemesh.scheduling.audience import Audience
from beemesh.scheduling.catching_up import CatchUp
from beemesh.scheduling.disruption import Disruption
from beemesh.scheduling.execution.executor import Executor
from beemesh.scheduling.journal import Journal
from beemesh.scheduling.judging import Judge
from beemesh.scheduling.local_work import LocalWork
from beemesh.scheduling.messages import TOPIC_EVENTS
from beemesh.scheduling.quotas import Policies
from beemesh.scheduling.stewardship.steward import Steward
from beemesh.scheduling.stewardship.upkeep import Upkeep
from beemesh.scheduling.taskbook import TaskBook
from beemesh.settings import NodeSettings
from beemesh.topics.broadcaster import Topics
from beemesh.wire.registry import decode_message, encode_message


@dataclass(frozen=True, slots=True)
class Composition:
    """A node and those of its protocols that the API reads."""

    node: Node
    roster: Roster
    view: View
    intents: IntentMap
    journal: Journal
    bidder: Bidder
    executor: Executor
    steward: Steward
    swim: Swim
    keyring: Keyring
    directory: Directory


def encode_body(message: msgspec.Struct) -> bytes:
    """A message with the number of its type in front, for topics."""
    code, body = encode_message(message)
    return code.to_bytes(2, "big") + body


def decode_body(data: bytes) -> msgspec.Struct | None:
    """The inverse of `encode_body`; None for what this version does not know."""
    return decode_message(int.from_bytes(data[:2], "big"), data[2:]) if len(data) >= 2 else None


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the protocols of one node share: read models, keys, chance and numbers."""

    self_id: NodeId
    settings: NodeSettings
    roster: Roster
    view: View
    intents: IntentMap
    crypto: Crypto
    randomness: Randomness
    new_request_id: Callable[[], int]
    book: TaskBook
    """The tasks that this node has heard of: bidding writes it, whoever tells of tasks reads it."""


def compose(
    settings: NodeSettings,
    membership: Membership,
    card: Signed,
    ca_key: bytes,
    ring: GossipRing,
    crypto: Crypto,
    randomness: Randomness,
    boot_id: BootId,
    *,
    is_warm: Callable[[NodeId], bool] = is_cold,
) -> Composition:
    """All protocols of one node, not started. `card` is the signed record of `membership`; `is_warm` see `Node`."""
    roster = Roster(settings.mesh, ca_key)
    view = View(membership.node_id, roster, settings.scheduler.announce_up_to)
    intents = IntentMap(crypto, roster)
    shared = _Shared(membership.node_id, settings, roster, view, intents, crypto, randomness, _counter(), TaskBook())
    address = (membership.addresses[0], membership.gossip_port)
    swim = Swim(
        shared.self_id,
        boot_id,
        address,
        card,
        roster=roster,
        view=view,
        crypto=crypto,
        randomness=randomness,
        new_request_id=shared.new_request_id,
        settings=SwimSettings.of(settings.membership),
    )
    keyring = Keyring(
        shared.self_id,
        ring,
        roster=roster,
        view=view,
        crypto=crypto,
        randomness=randomness,
        intent_for=intents.get,
        new_request_id=shared.new_request_id,
    )
    topics = Topics(shared.self_id, view, randomness, encode_body, decode_body, frozenset({TOPIC_EVENTS}))
    journal = _journal(shared)
    placing = executor, bidder, steward = _scheduling(shared, journal)
    directory = directory_of(shared)
    participants: tuple[Participant, ...] = (
        IntentSync(shared.self_id, intents, roster, view, randomness, shared.new_request_id, swim.partners),
        swim,
        keyring,
        ClockWitnesses(shared.self_id, roster),
        _summary(shared, swim, membership),
        topics,
        directory,
        *_leases_and_custody(shared),
        *placing,
        Caller(shared.self_id, roster, view, crypto, randomness, settings),
        *_diary(shared, journal),
    )
    node = Node(
        shared.self_id,
        boot_id,
        roster=roster,
        view=view,
        crypto=crypto,
        ring=ring,
        participants=participants,
        broadcaster=topics,
        clock_skew_ms=settings.scheduler.clock_skew_ms,
        is_warm=is_warm,
    )
    return Composition(node, roster, view, intents, journal, bidder, executor, steward, swim, keyring, directory)


def _summary(shared: _Shared, swim: Swim, membership: Membership) -> SelfSummary:
    facts = SelfFacts(shared.settings.runtime.engine, __version__, membership.api_port)
    return SelfSummary(shared.self_id, swim.members, facts, shared.intents.get)


def _journal(shared: _Shared) -> Journal:
    audience = Audience(shared.self_id, shared.roster, shared.view, shared.book.get)
    return Journal(shared.self_id, shared.roster, shared.crypto, audience, shared.new_request_id, shared.intents.get)


def _diary(shared: _Shared, journal: Journal) -> tuple[Participant, ...]:
    """What this node has heard, and how it hears what it missed."""
    return journal, CatchUp(shared.self_id, shared.roster, shared.view, shared.randomness, shared.new_request_id)


def _leases_and_custody(shared: _Shared) -> tuple[Participant, ...]:
    self_id, roster, view, crypto = shared.self_id, shared.roster, shared.view, shared.crypto
    randomness, new_request_id, intent_for = shared.randomness, shared.new_request_id, shared.intents.get

    def check_intent(signed: Signed) -> Intent:
        return verify_intent(crypto, roster, signed)

    policies = Policies(shared.intents.items)
    return (
        Announcer(),
        LeaseReplica(self_id, roster, crypto, intent_for, view.is_alive),
        Claims(self_id, roster, crypto, randomness, new_request_id),
        Custodian(self_id, roster, view, crypto, randomness, check_intent, intent_for),
        Opener(self_id, roster, view, crypto, randomness, intent_for, new_request_id),
        Submission(self_id, roster, view, randomness, check_intent, intent_for, new_request_id, policies.objection),
    )


def directory_of(shared: _Shared) -> Directory:
    """The machine plane's record DHT: written by members, kept by keepers that are alive."""
    roster, crypto, intents = shared.roster, shared.crypto, shared.intents

    def key_of(writer: bytes) -> bytes | None:
        card = roster.member(writer)
        return card.sign_key if card else None

    contacts = RosterContacts(roster, shared.view, intents.get, partial(verify_intent, crypto, roster))
    domain = Domain(roster.mesh, MACHINE_RECORDS, key_of)
    return Directory(shared.self_id, domain, contacts, crypto, shared.randomness, shared.new_request_id)


def _scheduling(shared: _Shared, journal: Journal) -> tuple[Executor, Bidder, Steward]:
    self_id, roster, view, crypto = shared.self_id, shared.roster, shared.view, shared.crypto
    randomness, settings, intents = shared.randomness, shared.settings, shared.intents
    local = LocalWork(settings.reserve, settings.policies)
    disruption = Disruption(intents.items)
    judge = Judge(self_id, roster, view, settings, local, intents.get, disruption)
    executor = Executor(
        self_id,
        view,
        randomness,
        settings,
        local,
        judge,
        intents.get,
        LocalCopies(crypto),
        partial(check_proof, crypto, roster),
        shared.new_request_id,
    )
    bidder = Bidder(self_id, roster, view, crypto, randomness, settings, judge, intents.get, shared.book)
    steward = Steward(
        self_id,
        roster,
        view,
        crypto,
        randomness,
        settings,
        lambda: intents.items("workload/"),
        Upkeep(roster, intents.items, disruption),
        shared.new_request_id,
        lambda workload_id: journal.events(workload_id=workload_id),
    )
    return executor, bidder, steward


def _counter() -> Callable[[], int]:
    last = 0

    def following() -> int:
        nonlocal last
        last += 1
        return last

    return following
