"""Whether records are found while a fifth of all nodes lies and more of them stand around the key, and at what cost.

`python bench/lookup.py [--nodes 1000] [--hostile 0.2] [--crowd 45] [--keys 1000] [--seeds 1]`. One honest node stores a
record where its lookup leads, another looks for it; both know what Kademlia's buckets hold. `plain` is Kademlia as
published (k = 8, alpha = 3), run by the same two nodes in the same network: it stores at the nearest eight that it
finds, and asks the nearest eight. Hostile nodes name hostile nodes alone, keep nothing, and, where it says so, hand out
records of their own that look like an answer, so that a reader who stops at the first one stops there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulator.routing_net import RoutingNet, point_of

FOUND_AIM, COST_AIM = 0.999, 2.0
RUNS: tuple[tuple[str, float, float, bool], ...] = (
    ("nobody lies", 0.0, 0.0, False),
    ("a fifth lies", 1.0, 0.0, False),
    ("and a crowd right at the key", 1.0, 0.05, False),
    ("and a crowd among the nearest", 1.0, 1.0, False),
    ("the same, with false answers", 1.0, 1.0, True),
    ("a crowd over a quarter of the region", 1.0, 4.0, False),
    ("a crowd over all of the region", 1.0, 16.0, False),
    ("the same, with false answers", 1.0, 16.0, True),
)
"""What happens, share of the hostile nodes that are, how far the crowd reaches (in what one node has of the ID space;
a region has sixteen of that), and whether hostile nodes answer with records."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: how many of `keys` were found, and questions per lookup."""

    name: str
    keys: int
    found: int
    asked: float
    plain_found: int
    plain_asked: float
    wall_s: float

    @property
    def cost(self) -> float:
        """Messages of a lookup, in those of a plain one."""
        return self.asked / self.plain_asked


def main() -> int:
    """Measure, print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--hostile", type=float, default=0.2, help="share of nodes that lie (default 0.2)")
    parser.add_argument("--crowd", type=int, default=45, help="hostile nodes around each key, besides (default 45)")
    parser.add_argument("--keys", type=int, default=1_000, help="records per line of the table and seed")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    print(f"{given.nodes} nodes, {given.hostile:.0%} hostile, {given.crowd} more around the key, {given.keys} keys")
    print(f"{'':38} {'found':>8} {'asked':>7} {'plain found':>12} {'asked':>7} {'cost':>6}")
    rows = []
    for seed in range(1, given.seeds + 1):
        for name, lying, within, false in RUNS:
            row = measure(name, given, seed, lying * given.hostile, within, false_answers=false)
            rows.append(asdict(row) | {"seed": seed, "within": within, "cost": round(row.cost, 3)})
            print(
                f"{row.name:38} {row.found / row.keys:8.2%} {row.asked:7.1f} {row.plain_found / row.keys:12.2%} "
                f"{row.plain_asked:7.1f} {row.cost:6.2f}",
                flush=True,
            )
    judged = [row for row in rows if 0 < row["within"] <= 1.0]
    good = all(row["found"] >= FOUND_AIM * row["keys"] and row["cost"] <= COST_AIM for row in judged)
    print(f"aim, for a crowd at the key: found >= {FOUND_AIM:.1%}, cost <= {COST_AIM}: {'met' if good else 'missed'}")
    print(json.dumps({"nodes": given.nodes, "hostile": given.hostile, "crowd": given.crowd, "rows": rows}))
    return 0 if good else 1


def measure(
    name: str, given: argparse.Namespace, seed: int, hostile: float, within: float, *, false_answers: bool
) -> Row:
    """One line of the table."""
    started = time.perf_counter()
    net = RoutingNet(given.nodes, seed, hostile=hostile, false_answers=false_answers)
    found = asked = plain_found = plain_asked = 0
    for number in range(given.keys):
        point = point_of(seed * 1_000_000 + number)
        if within:
            net.crowd_around(point, given.crowd, within=within)
        writer, reader = net.random.sample(net.honest, 2)
        trip = net.look_up(reader, point, net.look_up(writer, point).keepers)
        stored, usual = net.plain(writer, point), net.plain(reader, point)
        found += trip.found
        asked += trip.asked
        plain_found += bool(set(stored.keepers) & set(usual.keepers) & set(net.honest))
        plain_asked += usual.asked
    wall_s = round(time.perf_counter() - started, 1)
    return Row(name, given.keys, found, asked / given.keys, plain_found, plain_asked / given.keys, wall_s)


if __name__ == "__main__":
    sys.exit(main())
