"""Every message reaches every member, at most once, whatever the network loses."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from beemesh.effects import Effects, Notify, Now, Received, Schedule, Send, TimerFired
from beemesh.events import Delivered, MemberDown, MemberUp
from beemesh.ids import NodeId
from beemesh.topics.away import AWAY_BYTES_MAX, AWAY_S, TELLERS, is_teller
from beemesh.topics.broadcaster import BODY_BYTES_MAX, HOPS_MAX, RELAY_BURST, Topics
from beemesh.topics.chunks import CHUNK_BYTES, CHUNKED_BYTES_MAX
from beemesh.topics.gossip import FANOUT, PUSH_ALL_UP_TO, RELAY_TO
from beemesh.topics.messages import Chunk, ChunkWant, IHave, IWant, TopicMessage
from beemesh.topics.store import KEPT_BYTES_MAX, message_id
from tests.unit.membership.cast import WALL_MS

EVENTS, TASKS = "scheduler-events", "scheduler-tasks"


class Word(msgspec.Struct, frozen=True):
    """What is published here."""

    text: str


def _encode(message: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode(message)


def _decode(body: bytes) -> msgspec.Struct | None:
    try:
        return msgspec.msgpack.decode(body, type=Word)
    except msgspec.DecodeError:
        return None


def _at(boot_s: float) -> Now:
    return Now(boot_s, WALL_MS + int(boot_s * 1000))


class FakeView:
    """A view in which the test says who lives."""

    def __init__(self, ids: list[NodeId]) -> None:
        self.ids = ids

    def alive(self) -> tuple[NodeId, ...]:
        """As `View.alive`."""
        return tuple(sorted(self.ids))

    def status(self, node: bytes) -> str:
        """As `View.status`."""
        return "alive" if node in self.ids else "dead"

    def address(self, node: bytes) -> tuple[str, int]:
        """As `View.address`."""
        return ("", 0)


def _id(index: int) -> NodeId:
    return NodeId(index.to_bytes(32, "big"))


class Mesh:
    """Gossips joined by a lossy network under a virtual clock."""

    def __init__(self, nodes: int, seed: int, loss: float = 0.0) -> None:
        self.random, self.loss, self.now_s = random.Random(seed), loss, 0.0
        self.cut: set[NodeId] = set()
        """Those that hear each other, and no other."""
        view: Any = FakeView([_id(index) for index in range(nodes)])
        self.nodes = {node: Topics(node, view, self.random, _encode, _decode, frozenset({EVENTS})) for node in view.ids}
        self.delivered: dict[NodeId, Counter[str]] = {node: Counter() for node in self.nodes}
        self.sent: Counter[str] = Counter()
        self._heap: list[tuple[float, int, NodeId, Any]] = []
        self._timers: dict[tuple[NodeId, Any], int] = {}
        self._count = itertools.count()

    def carry(self, node: NodeId, effects: Effects) -> None:
        """Carry out effects."""
        for effect in effects:
            match effect:
                case Send(to=to, message=message):
                    self.sent[type(message).__name__] += 1
                    if self.random.random() >= self.loss and (to in self.cut) == (node in self.cut):
                        later_s = self.now_s + self.random.uniform(0.001, 0.01)
                        heapq.heappush(self._heap, (later_s, next(self._count), to, Received(node, message)))
                case Schedule(key=key, at_boot_s=at_s):
                    number = self._timers[node, key] = next(self._count)
                    heapq.heappush(self._heap, (at_s, number, node, TimerFired(key)))
                case Notify(event=Delivered(message=Word(text=text))):
                    self.delivered[node][text] += 1

    def publish(self, index: int, text: str, topic: str = TASKS) -> None:
        """Publish a word."""
        self.carry(_id(index), self.nodes[_id(index)].publish(topic, Word(text), _at(self.now_s)))

    def run(self, until_s: float) -> None:
        """Advance the clock."""
        while self._heap and self._heap[0][0] <= until_s:
            self.now_s, number, node, event = heapq.heappop(self._heap)
            if isinstance(event, TimerFired) and self._timers.get((node, event.key)) != number:
                continue
            self.carry(node, self.nodes[node].handle(event, _at(self.now_s)))
        self.now_s = until_s


@pytest.mark.parametrize("nodes", [1, 2, 3, 8, 9, 40])
def test_everybody_gets_it_once_and_at_once(nodes: int) -> None:
    """Without loss: within a few hops, exactly once, the publisher included."""
    mesh = Mesh(nodes, seed=nodes)
    mesh.publish(0, "a")
    mesh.run(0.1 if nodes <= 8 else 0.5)

    assert all(counted == {"a": 1} for counted in mesh.delivered.values())


@pytest.mark.parametrize("nodes", [3, 8, 20, 60])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_lost_is_repaired(nodes: int, seed: int) -> None:
    """20 % loss: every message still reaches everybody, once each, within two seconds."""
    mesh = Mesh(nodes, seed, loss=0.2)
    for number in range(10):
        mesh.publish(number % nodes, f"w{number}")
    mesh.run(2.0)

    assert all(counted == {f"w{number}": 1 for number in range(10)} for counted in mesh.delivered.values())


def test_a_message_after_a_quiet_minute_is_repaired_as_quickly() -> None:
    """The pause between mentions of old messages does not hold up a new one."""
    for seed in range(10):
        mesh = Mesh(3, seed)
        mesh.publish(0, "first")
        mesh.run(10)
        mesh.loss = 0.5
        mesh.publish(0, "second")
        mesh.run(10.8)
        mesh.loss = 0.0
        mesh.run(13)

        assert all(counted["second"] == 1 for counted in mesh.delivered.values()), seed


def test_a_small_mesh_pushes_once() -> None:
    """Up to eight members the publisher tells each of them, and nobody repeats it to all."""
    mesh = Mesh(8, seed=1)
    mesh.publish(0, "a")
    mesh.run(0.1)

    assert mesh.sent["TopicMessage"] == 7


def test_a_mesh_of_a_site_is_reached_in_one_hop() -> None:
    """Up to 33 members the publisher tells each of them: nobody has to wait for a repair because chance passed it by.
    Whoever hears of it tells two others, for what was lost on the way."""
    for seed in range(5):
        mesh = Mesh(PUSH_ALL_UP_TO, seed)
        mesh.publish(0, "a")
        mesh.run(0.1)

        assert all(counted["a"] == 1 for counted in mesh.delivered.values())
        assert mesh.sent["TopicMessage"] <= (PUSH_ALL_UP_TO - 1) * (1 + RELAY_TO)
        assert mesh.sent["IHave"] == 0


def test_a_large_mesh_pushes_to_a_few() -> None:
    """Each member tells a bounded number of others, whatever the size."""
    mesh = Mesh(60, seed=1)
    mesh.publish(0, "a")
    mesh.run(3)

    assert mesh.sent["TopicMessage"] <= 60 * (FANOUT + 1)


def _one(stored: frozenset[str] = frozenset()) -> Topics:
    view: Any = FakeView([_id(index) for index in range(4)])
    return Topics(_id(0), view, random.Random(1), _encode, _decode, stored)


def _wrapped(text: str, topic: str = TASKS, hops: int = 1) -> TopicMessage:
    body = _encode(Word(text))
    return TopicMessage(topic, message_id(topic, body), body, hops)


def _delivered(effects: Effects) -> list[Any]:
    return [effect.event for effect in effects if isinstance(effect, Notify) and isinstance(effect.event, Delivered)]


def test_an_id_names_its_content() -> None:
    """A message under another's id, with an unreadable body or one that is too large is not delivered or relayed."""
    topics = _one()
    good, other = _wrapped("good"), _wrapped("other")
    large = b"x" * (BODY_BYTES_MAX + 1)
    for forged in (
        TopicMessage(TASKS, other.id, good.body),
        TopicMessage(EVENTS, good.id, good.body),
        TopicMessage(TASKS, message_id(TASKS, b"\xc1"), b"\xc1"),
        TopicMessage(TASKS, message_id(TASKS, large), large),
    ):
        effects = topics.handle(Received(_id(1), forged), _at(0))
        assert not _delivered(effects)
        assert not [effect for effect in effects if isinstance(effect, Send)]

    assert _delivered(topics.handle(Received(_id(1), good), _at(0)))


def test_the_relay_is_named_and_hops_end() -> None:
    """`Delivered` says who handed it over; after the last hop nobody passes it on."""
    topics = _one()
    effects = topics.handle(Received(_id(2), _wrapped("a", hops=HOPS_MAX)), _at(0))

    assert [event.relay for event in _delivered(effects)] == [_id(2)]
    assert not [effect for effect in effects if isinstance(effect, Send)]


def test_a_missing_message_is_asked_for_until_it_comes() -> None:
    """Several mentions lead to one request at a time, to each holder in turn, and not for ever."""
    topics = _one()
    ids = (_wrapped("a").id, _wrapped("b").id)

    def asked(effects: Effects) -> list[Any]:
        return [(each.to, each.message) for each in effects if isinstance(each, Send) and type(each.message) is IWant]

    assert asked(topics.handle(Received(_id(1), IHave(ids)), _at(0.0))) == [(_id(1), IWant(ids))]
    assert asked(topics.handle(Received(_id(2), IHave(ids)), _at(0.1))) == []
    twice = 2  # what was asked for in vain
    assert asked(topics.handle(TimerFired(("topics", "tick")), _at(0.2))) == [(_id(1), IWant(ids))] * twice
    assert asked(topics.handle(TimerFired(("topics", "tick")), _at(0.4))) == [(_id(2), IWant(ids))] * twice
    topics.handle(Received(_id(3), _wrapped("a")), _at(0.5))
    later = [asked(topics.handle(TimerFired(("topics", "tick")), _at(0.6 + number / 5))) for number in range(50)]
    assert {request for requests in later for _, request in requests} == {IWant(ids[1:])}
    assert later[-1] == []


def test_a_member_is_handed_a_bounded_amount() -> None:
    """Asking again and again for the same large messages does not make this node send without end."""
    topics = _one()
    ids = []
    for number in range(40):
        text = f"{number}" + "x" * 50_000
        topics.publish(TASKS, Word(text), _at(0))
        ids.append(_wrapped(text).id)
    handed = 0
    for _ in range(100):
        effects = topics.handle(Received(_id(1), IWant(tuple(ids))), _at(1))
        handed += sum(len(effect.message.body) for effect in effects if isinstance(effect, Send))

    assert 0 < handed <= KEPT_BYTES_MAX


def test_a_flood_by_one_relay_stops_at_its_rate() -> None:
    """One member cannot make this node deliver and relay more than its share; others are not affected."""
    topics = _one()
    delivered = sum(
        len(_delivered(topics.handle(Received(_id(1), _wrapped(f"{number}")), _at(0)))) for number in range(3_000)
    )

    assert delivered == RELAY_BURST
    assert _delivered(topics.handle(Received(_id(2), _wrapped("honest")), _at(0)))


def test_memory_is_bounded() -> None:
    """Ids, kept messages and their bytes stay below their limits."""
    topics = _one()
    for number in range(3_000):
        topics.publish(TASKS, Word(f"{number}" + "x" * 5_000), _at(number))

    assert topics.store.kept_bytes <= KEPT_BYTES_MAX
    assert topics.store.kept_bytes == sum(len(kept.message.body) for kept in topics.store.kept.values())


def _told(effects: Effects) -> list[bytes]:
    return [
        key
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, IHave)
        for key in effect.message.ids
    ]


def test_events_wait_for_a_member_that_is_briefly_away() -> None:
    """It is told of messages of a stored topic on return, for two minutes and a bounded number of bytes."""
    topics = _one(frozenset({EVENTS}))
    topics.handle(MemberDown(_id(1)), _at(0))
    topics.publish(EVENTS, Word("event"), _at(1))
    topics.publish(TASKS, Word("task"), _at(1))
    back_s = AWAY_S - 1
    [told] = _told(topics.handle(MemberUp(_id(1)), _at(back_s)))
    assert topics.store.kept_bytes == sum(len(kept.message.body) for kept in topics.store.kept.values())
    topics.handle(TimerFired(("topics", "tick")), _at(back_s + 1))
    answer = topics.handle(Received(_id(1), IWant((told,))), _at(back_s + 1))
    assert [effect.message.topic for effect in answer if isinstance(effect, Send)] == [EVENTS]

    topics.handle(MemberDown(_id(1)), _at(200))
    for number in range(20):
        topics.publish(EVENTS, Word(f"{number}" + "x" * 50_000), _at(201))
    stored = _told(topics.handle(MemberUp(_id(1)), _at(202)))
    assert 0 < sum(len(topics.store.kept[key].message.body) for key in stored) <= AWAY_BYTES_MAX

    topics.handle(MemberDown(_id(1)), _at(210))
    topics.publish(EVENTS, Word("late"), _at(211))
    assert topics.handle(MemberUp(_id(1)), _at(211 + AWAY_S)) == []


def test_few_tell_a_member_what_it_missed() -> None:
    """As many as can lose their word without harm, of however many are alive; all, where they are few."""
    for size in (2, TELLERS + 1, 40, 500):
        alive = tuple(_id(index) for index in range(size))
        tellers = [each for each in alive if is_teller(each, alive[1], alive)]
        assert len(tellers) == min(TELLERS, size - 1)
        assert alive[1] not in tellers


@pytest.mark.parametrize("seed", range(5))
def test_events_reach_a_member_that_was_cut_off_for_less_than_a_death(seed: int) -> None:
    """Nobody holds it dead, so nothing is stored for it: it is told later. What a stored topic is not for is lost."""
    mesh = Mesh(12, seed)
    mesh.cut = {_id(3), _id(7)}
    mesh.publish(0, "event", EVENTS)
    mesh.publish(0, "task", TASKS)
    mesh.publish(7, "event too", EVENTS)
    mesh.run(10.0)
    assert mesh.delivered[_id(7)] == mesh.delivered[_id(3)] == {"event too": 1}
    mesh.cut = set()
    mesh.run(40.0)
    assert all(counted["event"] == counted["event too"] == 1 for counted in mesh.delivered.values())
    assert mesh.delivered[_id(3)]["task"] == 0


def _pieces(effects: Effects) -> list[Chunk]:
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Chunk)]


def test_a_message_that_is_too_large_for_a_datagram_travels_in_pieces() -> None:
    """A large message is sent in pieces that fit; a larger one goes whole; both arrive once."""
    mesh = Mesh(5, seed=1)
    mesh.publish(0, "a" * (3 * CHUNK_BYTES))
    mesh.publish(1, "b" * (2 * CHUNKED_BYTES_MAX))
    mesh.run(1.0)

    assert mesh.sent["Chunk"] == 4 * 4
    assert mesh.sent["TopicMessage"] == 4
    assert all(counted.total() == 2 and len(counted) == 2 for counted in mesh.delivered.values())


@pytest.mark.parametrize("seed", range(3))
def test_lost_pieces_alone_are_sent_again(seed: int) -> None:
    """20 % loss: large messages reach everybody once, for little more than their size."""
    mesh = Mesh(6, seed, loss=0.2)
    texts = [f"{number}" + "x" * (8 * CHUNK_BYTES) for number in range(6)]
    for number, text in enumerate(texts):
        mesh.publish(number, text)
    mesh.run(4.0)

    assert all(counted == dict.fromkeys(texts, 1) for counted in mesh.delivered.values())
    assert mesh.sent["Chunk"] <= 2 * (6 * 5 * 9)


def test_missing_pieces_are_asked_of_whoever_sent_the_others() -> None:
    """After a pause, only the pieces that did not come are asked for, and handed over."""
    author, reader = _one(), _one()
    sent = _pieces(author.publish(TASKS, Word("x" * (3 * CHUNK_BYTES)), _at(0)))[:4]
    for chunk in (sent[0], sent[3]):
        assert not _delivered(reader.handle(Received(_id(1), chunk), _at(0)))
    effects = reader.handle(TimerFired(("topics", "tick")), _at(0.3))
    wanted = next(each.message for each in effects if isinstance(each, Send) and type(each.message) is ChunkWant)
    assert wanted.indices == (1, 2)

    answers = _pieces(author.handle(Received(_id(2), wanted), _at(0.3)))
    assert [chunk.index for chunk in answers] == [1, 2]
    delivered = [each for chunk in answers for each in _delivered(reader.handle(Received(_id(1), chunk), _at(0.4)))]
    assert len(delivered) == 1


def test_a_quick_second_question_is_not_answered_twice() -> None:
    """Requests are sent twice for safety: that costs one answer. A later one is answered again."""
    topics = _one()
    topics.publish(TASKS, Word("a"), _at(0))
    question = Received(_id(1), IWant((_wrapped("a").id,)))
    answers = [
        sum(isinstance(effect, Send) for effect in topics.handle(question, _at(at_s))) for at_s in (1.0, 1.01, 1.2)
    ]

    assert answers == [1, 0, 1]


def test_one_piece_again_and_again_keeps_nobody_from_being_asked() -> None:
    """A member whose pieces never make the message has its turn; whoever says that it has it is asked all the same."""
    reader, key = _one(), _wrapped("x").id
    piece = Chunk(TASKS, key, 0, 2, b"x" * CHUNK_BYTES)
    reader.handle(Received(_id(1), piece), _at(0.0))
    reader.handle(Received(_id(2), IHave((key,))), _at(0.0))
    asked = []
    for number in range(1, 60):
        now = _at(number / 20)
        reader.handle(Received(_id(1), piece), now)
        effects = reader.handle(TimerFired(("topics", "tick")), now)
        asked += [each.to for each in effects if isinstance(each, Send) and type(each.message) is IWant]
    assert _id(2) in asked
