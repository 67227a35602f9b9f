"""What an agent says of Jobs."""

from __future__ import annotations

import asyncio

import msgspec

from agent.api.jobs import jobs
from beemesh.ids import Digest
from beemesh.workloads.record import JobTerms
from tests.unit.agent.test_daemon_sets import reader
from tests.unit.scheduling.samples import revision
from tests.unit.scheduling.test_jobs import end_all, job
from tests.unit.scheduling.world import World


def test_a_job_that_is_applied_anew_counts_its_own_pods() -> None:
    """What became of those of the job of that name before is not shown as its own."""
    for phase, counts in (("Succeeded", (2, 0)), ("Failed", (0, 2))):
        world = World()
        first = job(2, JobTerms(parallelism=2, backoff_limit=0))
        world.apply(first)
        world.run(5)
        end_all(world, phase)
        world.run(5)
        (view,) = asyncio.run(jobs(reader(world)))
        assert (view.succeeded, view.failed) == counts
        world.delete(first, 2)
        world.run(5)
        sealed_anew = msgspec.structs.replace(revision(), manifest=Digest(bytes(32)))
        world.apply(msgspec.structs.replace(first, revisions=(sealed_anew,), created_ms=world.now.wall_ms), 3)
        world.run(5)
        (view,) = asyncio.run(jobs(reader(world)))
        assert (view.succeeded, view.failed, view.active, view.over) == (0, 0, 2, "")
