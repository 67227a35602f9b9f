"""What `/metrics` shows."""

from __future__ import annotations

from agent.gauges import refresh
from agent.metrics import Metrics
from beemesh.events import Observed
from simulator.world import World


def test_the_page_shows_the_mesh_as_it_is_now() -> None:
    """Members by state, keys and records are gauges that follow the node; admitted datagrams only grow."""
    world = World(3)
    world.start_all()
    world.run_for(5)
    metrics = Metrics()
    metrics.before_reading(lambda: refresh(metrics, world.node(0)))

    before = _values(metrics)
    world.kill(2)
    world.run_for(30)
    after = _values(metrics)

    assert (before['beemesh_members{state="alive"}'], after['beemesh_members{state="alive"}']) == (3, 2)
    assert after['beemesh_members{state="dead"}'] == 1
    assert before["beemesh_gossip_keys"] == 1
    assert before["beemesh_intents"] == 3
    assert 0 < before["beemesh_datagrams_admitted_total"] < after["beemesh_datagrams_admitted_total"]
    assert 0 < after["beemesh_rtt_median_seconds"] < 0.1


def test_what_protocols_count_is_shown_by_its_labels() -> None:
    """`Observed` becomes a counter with its labels, whose name is never doubled."""
    metrics = Metrics()

    metrics.count(Observed("datagrams_refused", {"reason": "replayed"}))
    metrics.count(Observed("beemesh_datagrams_refused_total", {"reason": "replayed"}, 2.0))

    assert _values(metrics)['beemesh_datagrams_refused_total{reason="replayed"}'] == 3


def _values(metrics: Metrics) -> dict[str, float]:
    lines = [line for line in metrics.text().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
