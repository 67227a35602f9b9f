"""When the agent starts an ended container of podman's again, and when it keeps its hands off."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.runtime.command import CallResult
from agent.runtime.podman_table import PodmanTable

pytestmark = pytest.mark.asyncio


class EndedOnce:
    """A podman whose one container has ended; it notes what it was told."""

    def __init__(self, folder: Path, *, stopped_meanwhile: bool = False) -> None:
        self.stopped_meanwhile = stopped_meanwhile
        self.words: list[str] = []
        self.stopped_pods: set[str] = set()
        self.table = PodmanTable(self.podman, 1.0, folder, self.ends_are_over)

    async def podman(self, words: Sequence[str], *, timeout_s: float) -> CallResult:
        """`ps` and `start` of a container that has ended."""
        self.words.append(words[0])
        container = {"Id": "c1", "Names": ["pod-main"], "Labels": {"beemesh.io/pod": "pod"}, "State": "exited"}
        return CallResult(0, json.dumps([container] if words[0] == "ps" else []).encode(), b"")

    async def ends_are_over(self) -> None:
        """Podman's own clean-up, during which somebody may stop the pod."""
        self.words.append("cleaned up")
        if self.stopped_meanwhile:
            self.stopped_pods.add("pod")

    async def tend(self) -> bool:
        """One look, and what follows from it."""
        await self.table.look(self.stopped_pods)
        return await self.table.tend(lambda: self.stopped_pods)


async def test_an_ended_container_starts_when_podman_is_done_with_it(tmp_path: Path) -> None:
    """The clean-up after its end stops the whole pod, so a start that comes before would not live."""
    podman = EndedOnce(tmp_path)
    assert await podman.tend()
    assert podman.words[-2:] == ["cleaned up", "start"]


async def test_a_container_is_not_started_under_a_stop_that_still_runs(tmp_path: Path) -> None:
    """It starts, counted once, when the last call that ends it has returned."""
    podman = EndedOnce(tmp_path)
    with podman.table.being_ended("c1"):
        with podman.table.being_ended("c1"):
            assert not await podman.tend()
        assert not await podman.tend()
    assert "start" not in podman.words
    assert await podman.tend()
    assert podman.words.count("start") == 1
    assert podman.table.statuses(())["pod"].containers[0].restarts == 1


async def test_a_pod_that_is_stopped_while_podman_cleans_up_does_not_start(tmp_path: Path) -> None:
    """What is left alone is asked anew after the wait."""
    podman = EndedOnce(tmp_path, stopped_meanwhile=True)
    assert not await podman.tend()
    assert "start" not in podman.words
