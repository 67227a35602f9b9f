"""The picture of a mesh: sites, links, round trips, who is not seen and who is suspected."""

from __future__ import annotations

from typing import Any

from beemeshctl.mesh_picture import MeshPicture, rtt_pairs, rtt_table, status_lines, topology_lines

SITES = {"attic": "house", "cellar": "house", "shed": "garden", "gone": ""}


def link(node: str, rtt_ms: float | None = 2.0, state: str = "alive", **doubts: Any) -> dict[str, Any]:
    """What one node sees of another."""
    return {"node": node, "rtt_ms": rtt_ms, "state": state, "suspected_by": [], "suspected_s": None, **doubts}


def view(*links: dict[str, Any], health: int = 0, ring_epoch: int = 7, ring_keys: int = 1) -> dict[str, Any]:
    """The answer of one agent."""
    return {
        "links": list(links),
        "health": health,
        "ring_epoch": ring_epoch,
        "ring_keys": ring_keys,
        "protocol_version": 1,
    }


def picture(**views: dict[str, Any]) -> MeshPicture:
    """Three nodes that answer and one that is dead."""
    members = tuple(
        {"node": name, "site": site, "zone": "", "state": "dead" if name == "gone" else "alive"}
        for name, site in SITES.items()
    )
    whole = {
        "attic": view(link("cellar", 1.0), link("shed", 8.0), link("gone", None, "dead")),
        "cellar": view(link("attic", 3.0), link("shed", 30.0), link("gone", None, "dead")),
        "shed": view(link("attic", 10.0), link("cellar", None), link("gone", None, "dead")),
    }
    return MeshPicture("home", members, {**whole, **views}, {"gone": "it is dead"})


def test_topology_shows_sites_their_nodes_and_the_way_between_them() -> None:
    """A tree of sites, then one line per pair of sites with the median of what both ends measured."""
    assert topology_lines(picture()) == [
        "mesh home",
        "├─ (no site): 1 node",
        "│  └─ gone  dead",
        "├─ garden: 1 node",
        "│  └─ shed  alive",
        "└─ house: 2 nodes, 2.00 ms within",
        "   ├─ attic  alive",
        "   └─ cellar  alive",
        "(no site) ── garden: -",
        "(no site) ── house: -",
        "garden ── house: 20 ms",
    ]


def test_a_link_that_does_not_work_is_named() -> None:
    """One node cannot reach another that answers: both the tree and the status say which."""
    broken = picture(shed=view(link("attic"), link("cellar", None, "dead")))
    assert "shed ✗ cellar: dead" in topology_lines(broken)
    lines, _, rows = status_lines(broken)
    assert "shed holds cellar dead, others reach it" in lines
    assert {row[0]: row[3] for row in rows}["cellar"] == "1/2"


def test_a_suspicion_is_told_once_with_the_longest_time() -> None:
    """Everybody hears of an accusation; the picture says it once."""
    doubted = picture(
        attic=view(link("shed", suspected_by=["cellar"], suspected_s=2.0)),
        cellar=view(link("shed", suspected_by=["cellar"], suspected_s=4.0)),
    )
    lines, _, _ = status_lines(doubted)
    assert lines == ["mesh home: 4 nodes, 3 here", "cellar suspects shed for 4 s"]


def test_status_says_how_far_a_change_of_the_gossip_key_is() -> None:
    """Nodes that still hold two keys, or another one, are counted as not done."""
    changing = picture(cellar=view(link("attic"), ring_epoch=8, ring_keys=2))
    lines, heads, rows = status_lines(changing)
    assert "the gossip key is being changed: 2 of 3 nodes are done" in lines
    key = heads.index("KEY")
    assert [row[key] for row in rows] == ["7", "8", "7", "-"]


def test_status_shows_a_node_that_is_slow_and_one_that_does_not_answer() -> None:
    """Local health is that of the node itself; of a silent one nothing is made up."""
    _, heads, rows = status_lines(picture(shed=view(link("attic"), health=3)))
    health = heads.index("HEALTH")
    assert [row[health] for row in rows] == ["well", "well", "slow (3)", "-"]


def test_round_trips_are_from_row_to_column() -> None:
    """What was not measured is a dash, the node itself a dot."""
    heads, rows = rtt_table(picture())
    assert heads == ["RTT ms", "attic", "cellar", "shed", "gone"]
    assert rows[0] == ["attic", "·", "1.00", "8.00", "-"]
    assert rows[2] == ["shed", "10", "-", "·", "-"]


def test_round_trips_of_a_single_node_are_those_with_all_others() -> None:
    """Naming one node shows the way to each other one and back, as each end measured it, in a mesh of any size."""
    heads, rows = rtt_table(picture(), ["cellar"])
    assert heads == ["RTT ms", "from cellar", "to cellar"]
    assert rows == [["attic", "3.00", "1.00"], ["shed", "30", "-"], ["gone", "-", "-"]]
    assert rtt_pairs(picture(), ["cellar"]) == [
        {"from": "attic", "to": "cellar", "rtt_ms": 1.0},
        {"from": "cellar", "to": "attic", "rtt_ms": 3.0},
        {"from": "cellar", "to": "shed", "rtt_ms": 30.0},
        {"from": "cellar", "to": "gone", "rtt_ms": None},
        {"from": "shed", "to": "cellar", "rtt_ms": None},
    ]


def test_a_node_that_is_named_twice_is_one_node() -> None:
    """Neither a column nor a pair comes twice, and a name with itself is a single node."""
    for twice, once in ((["shed", "shed"], ["shed"]), (["shed", "attic", "shed"], ["shed", "attic"])):
        assert rtt_table(picture(), twice) == rtt_table(picture(), once)
        assert rtt_pairs(picture(), twice) == rtt_pairs(picture(), once)
    assert rtt_pairs(picture(), ["shed", "attic"]) == [
        {"from": "attic", "to": "shed", "rtt_ms": 8.0},
        {"from": "shed", "to": "attic", "rtt_ms": 10.0},
    ]
    assert len(rtt_pairs(picture())) == 9


def test_round_trips_of_many_nodes_have_a_row_each() -> None:
    """A table as wide as the mesh cannot be read: each node says which is nearest and which farthest from it."""
    names = [f"n{index:02}" for index in range(20)]
    views = {
        name: view(*(link(other, 1.0 + index) for index, other in enumerate(names) if other != name)) for name in names
    }
    many = MeshPicture("large", tuple({"node": name, "site": "s", "state": "alive"} for name in names), views)
    heads, rows = rtt_table(many)
    assert heads == ["NODE", "SITE", "MEASURED", "NEAREST", "MEDIAN", "FARTHEST"]
    assert rows[0] == ["n00", "s", "19", "2.00 ms n01", "11 ms", "20 ms n19"]
    assert rtt_table(many, ["n03", "n04"]) == (["RTT ms", "n03", "n04"], [["n03", "·", "5.00"], ["n04", "4.00", "·"]])


def test_of_many_sites_each_shows_its_nearest() -> None:
    """The ways between sites grow with their square: of more than eight, three for each are shown, and it is said."""
    names = [f"n{index:02}" for index in range(12)]
    views = {
        name: view(*(link(other, 1.0 + abs(here - there)) for there, other in enumerate(names) if other != name))
        for here, name in enumerate(names)
    }
    many = MeshPicture("wide", tuple({"node": name, "site": f"s-{name}", "state": "alive"} for name in names), views)
    ways = [line for line in topology_lines(many) if " ── " in line]
    assert "s-n00 ── s-n01: 2.00 ms" in ways
    assert not any("s-n00 ── s-n11" in way for way in ways)
    assert len(ways) <= 36
    assert topology_lines(many)[-1] == "(of 12 sites, each with its 3 nearest)"
