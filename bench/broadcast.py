"""What a message to everybody costs in a large mesh: payloads sent, time to the last node, beside two other figures.

`python bench/broadcast.py [--nodes 1000] [--loss 0.3] [--churn 0.05] [--messages 40] [--seeds 1]`. The nodes are the
agents' own state machines under a virtual clock. The limit is what loss alone costs; the peer is memberlist's rule
(three members every 200 ms, 4 * ceil(log10(n + 1)) times), simulated in the same run at the same loss without churn.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulator.topic_mesh import TopicMesh, churned

SENDS_AIM, LAST_AIM_S = 1.5, 2.1
GOSSIP_S, FANOUT, MULTIPLIER = 0.2, 3, 4
"""memberlist's LAN profile."""


def main() -> int:
    """Measure, print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--loss", type=float, default=0.3, help="share of datagrams that are lost (default 0.3)")
    parser.add_argument("--churn", type=float, default=0.05, help="share of nodes that crash and join per minute")
    parser.add_argument("--messages", type=int, default=40, help="messages, one per second, after ten to warm up")
    parser.add_argument("--seeds", type=int, default=1, help="runs, one per seed")
    given = parser.parse_args()
    limit = 1 / (1 - given.loss)
    peer_s, peer_sends = memberlist_rule(given.nodes, given.loss)
    print(f"{given.nodes} nodes, {given.loss:.0%} loss, {given.churn:.0%} churn per minute, {given.messages} messages")
    print(f"limit of the loss alone        {limit:.2f} payloads per node")
    print(f"memberlist's rule              {peer_sends:.2f} payloads per node, last node after {peer_s:.2f} s")
    runs = []
    for seed in range(1, given.seeds + 1):
        started = time.perf_counter()
        mesh = TopicMesh(given.nodes, seed, loss=given.loss)
        outcome = churned(mesh, messages=given.messages, every_s=1.0, churn_per_minute=given.churn)
        runs.append(asdict(outcome) | {"seed": seed, "wall_s": round(time.perf_counter() - started, 1)})
        print(
            f"ours, seed {seed:<3}  missed {outcome.missed}, doubled {outcome.doubled}, "
            f"{outcome.sends_per_node:.3f} payloads per node (aim {SENDS_AIM}), last node after {outcome.last_s:.2f} s "
            f"(aim {LAST_AIM_S}; median message {outcome.last_median_s:.2f} s), "
            f"{outcome.control_per_node:.1f} control datagrams, {outcome.crashed} crashed, {outcome.joined} joined"
        )
    print(json.dumps({"limit": limit, "memberlist": {"sends": peer_sends, "last_s": peer_s}, "runs": runs}))
    good = all(run["missed"] == run["doubled"] == 0 for run in runs)
    return 0 if good else 1


def memberlist_rule(nodes: int, loss: float, rounds: int = 20) -> tuple[float, float]:
    """(mean time to the last node, payloads sent per node) of one rumour under memberlist's rule, without latency."""
    chance = random.Random(1)
    times, sends = [], []
    for _ in range(rounds):
        left = {0: MULTIPLIER * math.ceil(math.log10(nodes + 1))}
        known, sent, step, last = {0}, 0, 0, 0
        while left:
            step += 1
            fresh = set()
            for node in list(left):
                for peer in chance.sample(range(nodes), min(FANOUT, nodes)):
                    if left.get(node, 0) <= 0 or peer == node:
                        continue
                    left[node] -= 1
                    sent += 1
                    if peer not in known and chance.random() >= loss:
                        fresh.add(peer)
                if left[node] <= 0:
                    del left[node]
            if fresh:
                known |= fresh
                last = step
                left |= dict.fromkeys(fresh, MULTIPLIER * math.ceil(math.log10(nodes + 1)))
        times.append(last * GOSSIP_S)
        sends.append(sent / nodes)
    return sum(times) / rounds, sum(sends) / rounds


if __name__ == "__main__":
    sys.exit(main())
