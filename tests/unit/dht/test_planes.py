"""Directories that do not know everybody: work identities in tables of their own, and members that know a seed."""

from __future__ import annotations

from functools import partial

import pytest

from beemesh.dht.announcer import Announcer
from beemesh.dht.contacts import RosterContacts
from beemesh.dht.directory import Directory
from beemesh.dht.messages import StoreRecord
from beemesh.dht.publisher import RETRY_S, TTL_MS
from beemesh.dht.records import MACHINE_RECORDS, RECORD_KIND, Domain, Record, point_of
from beemesh.dht.region import K, Region
from beemesh.dht.work_plane import work_directory
from beemesh.effects import Asked, Notify, Now, Reply
from beemesh.events import PodsObserved, PublishRecord, RecordPublished, SeedIntents, WithdrawRecord
from beemesh.identity.signing import sign_statement
from beemesh.ids import NodeId, to_text
from beemesh.intents.entitlement import verify_intent
from beemesh.intents.map import IntentMap
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.workloads.observation import ReplicaReport
from simulator.crypto import FakeCrypto
from simulator.world import World
from tests.unit.dht.plane import Plane

SIZE = 40
NODE = NodeId(bytes(32))


CRYPTOS = [FakeCrypto(f"replica {number}".encode()) for number in range(SIZE + 1)]
KEYS = {crypto.signer_id: crypto.sign_key for crypto in CRYPTOS}


def work_plane(size: int, seed: int = 0) -> tuple[Plane, list[NodeId]]:
    """Replicas that met one or two others each, and found the rest by themselves."""
    plane, cryptos = Plane(seed), CRYPTOS[:size]
    for number, crypto in enumerate(cryptos):
        met = [NodeId(cryptos[each].signer_id) for each in {0, number // 2} if number]
        directory = work_directory("home", crypto, KEYS.get, plane.random, met, plane.number)
        plane.join(NodeId(crypto.signer_id), directory)
    plane.run_for(10)
    return plane, list(plane.nodes)


def test_work_identities_find_each_other_from_one_seed() -> None:
    """Nobody has a list of all: tables fill by lookups, and each service is found from everywhere."""
    plane, nodes = work_plane(SIZE)
    for number in range(0, SIZE, 6):
        plane.event(nodes[number], PublishRecord("service", f"svc/shop/{number}"))
    plane.run_for(10)
    for number in range(0, SIZE, 6):
        reader = nodes[(number * 7 + 3) % SIZE]
        assert plane.providers(reader, "service", f"svc/shop/{number}") == {nodes[number]}
    guesses = [plane.nodes[each].contacts.size() for each in nodes]
    assert SIZE / 2 <= sorted(guesses)[SIZE // 2] <= SIZE * 2


def test_it_goes_on_while_a_third_is_silent() -> None:
    """Dead contacts are asked, given up, and replaced; what the living publish is found by the living."""
    plane, nodes = work_plane(SIZE, 1)
    plane.silent = set(nodes[1::3])
    living = [each for each in nodes if each not in plane.silent]
    plane.event(living[5], PublishRecord("service", "svc/db/0"))
    plane.run_for(20)
    assert all(plane.providers(reader, "service", "svc/db/0") == {living[5]} for reader in living[::8])


def test_the_planes_share_nothing() -> None:
    """A work directory keeps, finds and publishes nothing of machines, whoever signed it; and the other way round."""
    plane, nodes = work_plane(3)
    crypto = CRYPTOS[1]
    directory = plane.nodes[nodes[0]]
    for domain, kind in (("home", "manifest"), ("home.work", "manifest"), ("home", "service")):
        body = Record(domain, kind, "m", crypto.signer_id, 0, 1, plane.now.wall_ms, 60_000)  # type: ignore[arg-type]
        asked = Asked(nodes[1], 1, StoreRecord(domain, sign_statement(crypto, RECORD_KIND, body)))
        (reply,) = [each for each in directory.handle(asked, plane.now) if isinstance(each, Reply)]
        assert not reply.message.ok  # type: ignore[attr-defined]
    plane.event(nodes[0], PublishRecord("runs", "web/0"))
    assert len(directory.published) == 0
    assert len(directory.store) == 0
    assert point_of("home", "service", "x") != point_of("home.work", "service", "x")


def test_what_too_few_keep_is_published_again_soon() -> None:
    """A record that reached nobody is tried again within seconds, and then stands."""
    plane, nodes = work_plane(8, 2)
    plane.silent = set(nodes[1:])
    plane.event(nodes[0], PublishRecord("service", "svc/late/0"))
    plane.run_for(6)
    plane.silent = set()
    plane.run_for(RETRY_S * 3)
    assert plane.providers(nodes[5], "service", "svc/late/0") == {nodes[0]}
    outcomes = [event for _, event in plane.told if isinstance(event, RecordPublished)]
    assert outcomes[0].kept < outcomes[-1].kept


def test_what_is_withdrawn_dies_within_its_life() -> None:
    """Nobody publishes it any more, and no copy is handed on beyond its time."""
    plane, nodes = work_plane(8, 3)
    plane.event(nodes[0], PublishRecord("service", "svc/gone/0"))
    plane.run_for(1)
    plane.event(nodes[0], WithdrawRecord("service", "svc/gone/0"))
    assert plane.providers(nodes[3], "service", "svc/gone/0") == {nodes[0]}
    plane.run_for(TTL_MS / 1000)
    assert plane.providers(nodes[3], "service", "svc/gone/0") == set()


@pytest.mark.parametrize("seed", range(3))
def test_a_replica_that_comes_later_gets_what_it_should_keep(seed: int) -> None:
    """Whoever stands nearest to a key gets a copy when it turns up, long before the writer's next round."""
    plane, nodes = work_plane(10, seed)
    plane.event(nodes[2], PublishRecord("service", "svc/old/0"))
    plane.run_for(1)
    late = NodeId(CRYPTOS[-1].signer_id)
    plane.join(late, work_directory("home", CRYPTOS[-1], KEYS.get, plane.random, nodes[:1], plane.number))
    plane.run_for(10)
    point = point_of("home.work", "service", "svc/old/0")
    assert Region(point, 11).tolerates(late)
    assert late in plane.keepers(point)


def _merge(intents: IntentMap, event: SeedIntents) -> None:
    for record in event.records:
        intents.merge(record, Now(0.0, 0))


def members_plane(size: int) -> tuple[Plane, list[NodeId], World]:
    """Directories of members, each with the whole roster but the last, which knows the first alone."""
    world, plane = World(size), Plane()
    ids = [machine.membership.node_id for machine in world.machines]
    for machine in world.machines:
        last = machine is world.machines[-1]
        roster = Roster("sim", world.ca.sign_key)
        intents = IntentMap(machine.crypto, roster)
        view = View(machine.membership.node_id, roster)
        for record in [world.records[0], world.records[-1]] if last else world.records:
            intents.merge(record, Now(0.0, 0))
        for card in roster.members():
            view.set_status(card.node_id, "alive")

        def key_of(raw: bytes, roster: Roster = roster) -> bytes | None:
            card = roster.member(raw)
            return card.sign_key if card else None

        contacts = RosterContacts(roster, view, intents.get, partial(verify_intent, machine.crypto, roster))
        plane.add(machine.crypto, Domain("sim", MACHINE_RECORDS, key_of), contacts)
        plane.on(machine.membership.node_id, SeedIntents, partial(_merge, intents))
    return plane, ids, world


def test_who_knows_a_seed_alone_finds_everything() -> None:
    """Whoever is asked sees that the asker knows another roster, and names those to ask with their cards."""
    plane, ids, _ = members_plane(30)
    plane.run_for(3)
    late = ids[-1]
    assert plane.providers(late, "presence", to_text(ids[7])) == {ids[7]}
    assert plane.nodes[late].contacts.size() > 2


def test_who_knows_all_asks_a_few_and_names_nobody() -> None:
    """Among nodes of one roster a lookup is eight questions at once, and each answer holds records alone."""
    plane, ids, _ = members_plane(30)
    plane.run_for(3)
    before = plane.asked
    assert plane.providers(ids[3], "presence", to_text(ids[7])) == {ids[7]}
    assert plane.asked - before <= 9


def test_what_is_kept_fresh_is_not_published_again_after_a_restart() -> None:
    """A node that starts anew asks those that a reader asks, and stores nothing while most of them keep its record."""
    plane, ids, _ = members_plane(20)
    plane.run_for(5)
    plane.event(ids[4], PublishRecord("manifest", "m"))
    plane.run_for(60)
    old = plane.nodes[ids[4]]
    plane.join(ids[4], Directory(ids[4], old._domain, old.contacts, old._crypto, plane.random, plane.number))
    plane.told.clear()
    plane.event(ids[4], PublishRecord("manifest", "m", is_old=True))
    plane.run_for(5)
    told = [event for _, event in plane.told]
    assert [event.labels["type"] for event in told if getattr(event, "metric", "") == "records_skipped"] == [
        "manifest",
        "presence",
    ]
    assert not [event for event in told if getattr(event, "metric", "") == "records_stored"]
    plane.run_for(TTL_MS / 1000)
    assert plane.providers(ids[9], "manifest", "m") == {ids[4]}, "it was published in time, all the same"


def test_what_is_new_is_stored_at_once_by_a_node_that_just_started() -> None:
    """Only for what it may have published before does a node look first: anything else takes one round trip."""
    plane, ids, _ = members_plane(20)
    plane.event(ids[4], PublishRecord("manifest", "m"))
    plane.run_for(0.003)
    published = [event for _, event in plane.told if isinstance(event, RecordPublished)]
    assert [event.kept == event.asked >= K for event in published] == [True]


def test_pods_that_an_agent_finds_at_its_start_may_have_been_told_of_before() -> None:
    """What runs when the runtime first speaks is announced as old, and what starts later as new."""
    announcer, now = Announcer(), Now(0.0, 0)

    def old_ones(*replicas: int) -> list[bool]:
        pods = tuple(ReplicaReport(f"p{n}", "w", "default", "Deployment", 1, n, NODE, "Running") for n in replicas)
        effects = announcer.handle(PodsObserved(pods), now)
        return [each.event.is_old for each in effects if isinstance(each, Notify)]

    assert old_ones(0, 1) == [True, True]
    assert old_ones(0, 1, 2) == [False]


def test_what_changed_is_published_although_old_copies_are_fresh() -> None:
    """Another value is another record: copies of the old one save nothing."""
    plane, ids, _ = members_plane(20)
    plane.run_for(5)
    plane.event(ids[4], PublishRecord("manifest", "m", b"old"))
    plane.run_for(3)
    plane.event(ids[4], PublishRecord("manifest", "m", b"new"))
    plane.run_for(3)
    values = {
        each.record.value
        for node in plane.nodes.values()
        for each in node.store.at(point_of("sim", "manifest", "m"), plane.now)
    }
    assert values == {b"new"}
