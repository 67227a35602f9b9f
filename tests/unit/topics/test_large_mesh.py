"""Above a hundred members a tree carries messages: none is lost or doubled, at little more than one sending each."""

from __future__ import annotations

import pytest

from beemesh.topics.away import TELLERS
from beemesh.topics.broadcaster import TREE_ABOVE, TREE_DOWN_TO
from simulator.topic_mesh import DEATH_KNOWN_S, JOIN_KNOWN_S, TopicMesh, churned, node_id


def test_without_loss_every_message_is_sent_once_to_everybody() -> None:
    """Once the tree stands, a message costs one sending per node, and arrives within its few hops."""
    mesh = TopicMesh(200, seed=1)
    outcome = churned(mesh, messages=10, every_s=1.0, churn_per_minute=0.0, settle_s=10.0, warm_up=3)

    assert (outcome.missed, outcome.doubled) == (0, 0)
    assert outcome.sends_per_node <= 1.02
    assert outcome.last_s <= 0.5


@pytest.mark.parametrize("seed", range(2))
def test_under_loss_and_churn_nobody_misses_a_message(seed: int) -> None:
    """200 nodes, 30 % loss, 5 % churn per minute: nothing is missed or doubled, and sendings stay near what the loss
    itself costs (1.43)."""
    mesh = TopicMesh(200, seed, loss=0.3)
    outcome = churned(mesh, messages=15, every_s=1.0, churn_per_minute=0.05)

    assert outcome.crashed and outcome.joined
    assert (outcome.missed, outcome.doubled) == (0, 0)
    assert outcome.sends_per_node <= 1.6
    assert outcome.last_s <= 2.1


@pytest.mark.parametrize("seed", range(3))
def test_a_mesh_that_grows_and_shrinks_changes_over_without_a_loss(seed: int) -> None:
    """Messages all the while, across both bounds and back: nothing is missed or doubled, and each uses the tree when
    it should."""
    mesh = TopicMesh(TREE_ABOVE - 10, seed, loss=0.1)
    mesh.start()
    steady = sorted(mesh.nodes)[:50]
    joined = []
    for step in range(60):
        if step < 20:
            joined.append(mesh.join())
        for _ in range(2 if step >= 30 and len(mesh.nodes) > TREE_DOWN_TO - 10 else 0):
            mesh.leave(joined.pop() if joined else max(mesh.nodes))
        mesh.publish(steady[step % len(steady)], f"m{step}")
        mesh.run(0.4)
        if step == 29:
            mesh.run(3.0)
            assert all(mesh.nodes[node].uses_tree for node in steady)
    mesh.run(10.0)

    assert not any(mesh.nodes[node].uses_tree or mesh.nodes[node].tree.branches for node in steady)
    assert all(node in published.got for published in mesh.messages.values() for node in steady)
    assert not any(published.doubled for published in mesh.messages.values())


def test_nodes_that_disagree_about_the_size_reach_each_other() -> None:
    """Half of the mesh uses the tree and half gossips: every message still reaches everybody once."""
    mesh = TopicMesh(60, seed=3, loss=0.1)
    for index, topics in enumerate(mesh.nodes.values()):
        topics.tree_bounds = (10, 5) if index % 2 else (1_000, 900)
    mesh.start()
    mesh.run(10.0)
    for number in range(20):
        mesh.publish(node_id(number), f"m{number}")
        mesh.run(0.3)
    mesh.run(8.0)

    assert sum(topics.uses_tree for topics in mesh.nodes.values()) == 30
    assert all(len(published.got) == 60 and not published.doubled for published in mesh.messages.values())


def test_a_cut_through_the_links_is_healed() -> None:
    """Two halves that have no link between them still get each other's messages, and grow together."""
    mesh = TopicMesh(120, seed=5)
    mesh.start()
    mesh.run(10.0)
    for node, topics in mesh.nodes.items():
        for peer in [peer for peer in topics.links.active if (peer < node_id(60)) != (node < node_id(60))]:
            topics.links.gone(peer)
    published = mesh.publish(node_id(0), "across")
    mesh.run(5.0)

    assert len(published.got) == 120
    assert not published.doubled


def test_whoever_gives_up_its_links_mentions_what_they_still_owed() -> None:
    """A message that was told over links alone is mentioned to members at random when the links go."""
    mesh = TopicMesh(TREE_ABOVE + 1, seed=6)
    mesh.start()
    mesh.run(5.0)
    mesh.publish(node_id(0), "owed", "a-topic-of-no-events")
    mesh.run(2.0)
    told = mesh.nodes[node_id(0)]
    assert told.uses_tree
    assert not told.mentions
    for node in sorted(mesh.nodes)[TREE_DOWN_TO - 1 :]:
        mesh.leave(node)

    assert not told.uses_tree
    assert len(told.mentions) == 1


@pytest.mark.parametrize("loss", [0.0, 0.3])
@pytest.mark.parametrize("nodes", [30, 150])
def test_who_was_away_gets_what_it_missed_once_however_many_kept_it(nodes: int, loss: float) -> None:
    """All members keep messages for one that is away; when it is back some tell it, and it gets each about once."""
    mesh = TopicMesh(nodes, 1, loss=loss)
    mesh.start()
    away, others = node_id(0), sorted(mesh.nodes)[1:]
    mesh.crash(away)
    mesh.run(DEATH_KNOWN_S + 1.0)
    missed = []
    for number in range(40):
        missed.append(mesh.publish(others[number % len(others)], f"m{number}"))
        mesh.run(1.5)
    mesh.run(10.0)
    before = sum(published.sends for published in missed)

    mesh.come_back(away)
    mesh.run(JOIN_KNOWN_S - 0.001)
    mentions = mesh.sent["IHave"]
    mesh.run(0.002)
    assert TELLERS <= mesh.sent["IHave"] - mentions <= 2 * TELLERS
    mesh.run(5.0)

    assert all(away in published.got and not published.doubled for published in missed)
    assert sum(published.sends for published in missed) - before <= 40 * (1.0 if loss == 0.0 else 3.0)
