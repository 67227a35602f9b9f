"""What `node drain` says when its time is over, and what it reads from an agent's pods."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from beemesh.errors import Unreachable
from beemesh.scheduling.stewardship.layout import Layout
from beemesh.workloads.kubeshape import PodView, pod
from beemeshctl import draining
from beemeshctl.draining import Drainer, DrainWish
from beemeshctl.layout import _pod
from tests.unit.scheduling.samples import card, workload
from tests.unit.scheduling.test_plans import picture

COMPLAINT = "readiness probe failed: HTTP status 503"


def drainer_of(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Drainer:
    """Drains node `one` of a mesh that stays as it is."""
    orders = SimpleNamespace(nodes=lambda names: [card(name) for name in names])
    monkeypatch.setattr(draining, "NodeOrders", lambda client: orders)
    monkeypatch.setattr(draining, "read_layout", lambda client: layout)
    client: Any = None
    return Drainer(client, DrainWish(("one",), timeout_s=1e-6))


def test_a_drain_that_waits_for_a_successor_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never gets ready is no longer on its way: where it runs, and what its probes complain of, is told."""
    layout = picture(workload(), "one")
    (old,) = layout.pods
    layout.pods.append(replace(old, node="two", ready=False, message=COMPLAINT))
    drainer = drainer_of(layout, monkeypatch)

    with pytest.raises(Unreachable) as late:
        drainer.wait(lambda line: None, lambda line: None)

    told = f"default/hello-1-0 on one: its successor runs on two and is not ready yet: {COMPLAINT}"
    assert told in late.value.message


def test_what_probes_complain_of_is_read_with_the_pod() -> None:
    """As an agent shows it."""
    view = PodView(
        name="hello-1-0",
        namespace="default",
        workload_id="deployment/default/hello",
        owner_kind="Deployment",
        owner_name="hello",
        revision=1,
        replica=0,
        node="two",
        phase="Running",
        message=COMPLAINT,
    )

    read = _pod(pod(view))

    assert read is not None
    assert (read.node, read.ready, read.message) == ("two", False, COMPLAINT)
