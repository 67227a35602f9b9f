"""A few links each, symmetric and connected, in full and in partial knowledge; nobody is surrounded by asking."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from beemesh.ids import NodeId
from beemesh.topics.messages import Disconnect, Neighbour, Shuffle
from beemesh.topics.partial_view import (
    ACTIVE_MAX,
    ACTIVE_WANTED,
    GRANTED_MAX,
    KEEP_EVERY_S,
    PASSIVE_MAX,
    SHUFFLE_NODES,
    SILENT_S,
    PartialView,
)


def _id(index: int) -> NodeId:
    return NodeId(index.to_bytes(32, "big"))


class Known:
    """What one node knows: those alive here, and the addresses of all."""

    def __init__(self, alive: list[NodeId]) -> None:
        self.ids = sorted(alive)
        self.dead: set[NodeId] = set()

    def alive(self) -> tuple[NodeId, ...]:
        """As `View.alive`."""
        return tuple(node for node in self.ids if node not in self.dead)

    def status(self, node: bytes) -> str:
        """As `View.status`."""
        return "dead" if node in self.dead else "alive" if node in self.ids else "unknown"

    def address(self, node: bytes) -> tuple[str, int] | None:
        """As `View.address`: only members have one."""
        return ("", 0) if int.from_bytes(node, "big") < 10_000 else None


class Links:
    """Partial views that write to each other over a lossy network, in rounds of a second."""

    def __init__(self, knows: list[list[int]], seed: int, loss: float = 0.0) -> None:
        self.random, self.loss, self.now_s = random.Random(seed), loss, 0.0
        self.known = [Known([_id(number) for number in numbers]) for numbers in knows]
        views: list[Any] = list(self.known)
        self.views = {_id(index): PartialView(_id(index), view, self.random) for index, view in enumerate(views)}

    def run(self, seconds: int) -> None:
        """Let everybody look after its links."""
        for _ in range(seconds):
            self.now_s += 1.0
            for node, view in self.views.items():
                self.post(node, view.tick(self.now_s, eager=False))

    def post(self, sender: NodeId, letters: list[Any]) -> None:
        """Deliver letters, and what they cause."""
        waiting = deque((sender, to, message) for to, message in letters)
        while waiting:
            source, to, message = waiting.popleft()
            if to in self.views and self.random.random() >= self.loss:
                answers = self.views[to].received(source, message, self.now_s, willing=True)
                waiting.extend((to, peer, answer) for peer, answer in answers)

    def one_sided(self) -> int:
        """Links that only one end has."""
        return sum(
            node not in self.views[peer].active
            for node, view in self.views.items()
            for peer in view.active
            if peer in self.views
        )

    def parts(self) -> int:
        """Parts of the mesh without a link between them."""
        left, parts = set(self.views), 0
        while left:
            parts += 1
            waiting = [left.pop()]
            while waiting:
                for peer in self.views[waiting.pop()].active:
                    if peer in left:
                        left.discard(peer)
                        waiting.append(peer)
        return parts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_links_are_few_symmetric_and_connected(seed: int, loss: float) -> None:
    """Within half a minute everybody has its links, both ends of each know it, and all hang together."""
    links = Links([list(range(150))] * 150, seed, loss)
    links.run(20)
    links.loss = 0.0
    links.run(11)

    sizes = [len(view.active) for view in links.views.values()]
    assert max(sizes) <= ACTIVE_MAX
    assert sum(size >= ACTIVE_WANTED for size in sizes) >= 0.95 * len(sizes)
    assert links.one_sided() == 0
    assert links.parts() == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_node_that_knows_a_part_learns_of_more(seed: int) -> None:
    """In a ring where each knows two others, walks bring more, and links go far beyond the first neighbours."""
    size = 60
    links = Links([[number, (number + 1) % size, (number - 1) % size] for number in range(size)], seed)
    links.run(60)

    assert links.parts() == 1
    assert all(len(view.passive()) <= PASSIVE_MAX for view in links.views.values())
    assert sum(len(view.active) >= 4 for view in links.views.values()) >= 0.9 * size


def test_half_of_a_mesh_may_die_at_once() -> None:
    """The survivors find new links, and stay one mesh."""
    links = Links([list(range(100))] * 100, seed=4)
    links.run(10)
    dead = {_id(index) for index in range(50)}
    for node in dead:
        del links.views[node]
    for known in links.known:
        known.dead = dead
    for view in links.views.values():
        for node in dead:
            view.gone(node)
    links.run(15)

    assert links.parts() == 1
    assert all(len(view.active) >= ACTIVE_WANTED - 1 for view in links.views.values())
    assert not any(peer in dead for view in links.views.values() for peer in view.active)


def _one(alive: int = 50) -> PartialView:
    view: Any = Known([_id(index) for index in range(alive)])
    return PartialView(_id(0), view, random.Random(1))


def test_requests_cannot_take_all_links() -> None:
    """However many ask, urgently or not, links that this node asked for itself stay, and the rest is bounded."""
    view = _one()
    for peer, _ in view.tick(1.0, eager=False):
        view.received(peer, Neighbour("yes"), 1.0, willing=True)
    own = set(view.active)
    for index in range(20, 50):
        for want in ("link", "urgent"):
            view.received(_id(index), Neighbour(want), 2.0, willing=True)

    assert own <= set(view.active)
    assert len(view.active) == ACTIVE_MAX

    alone = _one()
    for index in range(20, 50):
        alone.received(_id(index), Neighbour("urgent"), 2.0, willing=True)
    assert len(alone.active) == GRANTED_MAX


def test_a_grant_that_was_not_asked_for_is_refused() -> None:
    """`yes` out of the blue makes no link."""
    view = _one()
    assert view.received(_id(7), Neighbour("yes"), 1.0, willing=True) == [(_id(7), Disconnect())]
    assert not view.active


def test_a_node_that_wants_no_links_grants_none() -> None:
    """Below the size for a tree, requests are refused."""
    view = _one()
    assert view.received(_id(7), Neighbour("urgent"), 1.0, willing=False) == [(_id(7), Disconnect())]
    assert not view.active


def test_a_link_is_kept_alive_or_given_up() -> None:
    """Both ends say now and then that they have it; a silent one is given up."""
    view = _one()
    view.received(_id(7), Neighbour("link"), 0.0, willing=True)
    assert (_id(7), Neighbour("keep")) in view.tick(KEEP_EVERY_S, eager=False)
    view.heard(_id(7), KEEP_EVERY_S)
    view.tick(SILENT_S, eager=False)
    assert _id(7) in view.active

    assert (_id(7), Disconnect()) in view.tick(KEEP_EVERY_S + SILENT_S + 1, eager=False)
    assert _id(7) not in view.active


def test_whoever_refused_is_not_asked_at_once() -> None:
    """A refusal is remembered for a while."""
    view = _one(alive=2)
    assert view.tick(0.0, eager=False) == [(_id(1), Neighbour("urgent"))]
    view.received(_id(1), Disconnect(), 0.1, willing=True)
    assert view.tick(1.0, eager=False) == []
    assert view.tick(6.0, eager=False) == [(_id(1), Neighbour("urgent"))]


def test_a_shuffle_cannot_bring_strangers_or_floods() -> None:
    """Only answers to own shuffles are learned from, only members, and only so many."""
    view = _one()
    strangers = tuple(_id(20_000 + index) for index in range(4))
    members = tuple(_id(100 + index) for index in range(50))
    view.received(_id(7), Shuffle(_id(7), members, 0, True), 0.0, willing=True)
    assert view.passive() == (), "nobody was asked"

    view.received(_id(7), Neighbour("link"), 0.0, willing=True)
    view.received(_id(7), Shuffle(_id(7), strangers + members, 0), 0.0, willing=True)
    assert 0 < len(view.passive()) <= SHUFFLE_NODES
    assert not set(strangers) & set(view.passive())
