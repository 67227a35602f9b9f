"""Several starts that want one image at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.runtime.command import CallResult
from agent.runtime.contract import PodSpec
from agent.runtime.images import ImageStore
from agent.runtime.podman_setup import PodmanSettings

pytestmark = pytest.mark.asyncio

SPEC = PodSpec("a", {}, {"spec": {"containers": [{"name": "main", "image": "docker.io/x/y:1"}]}})


class Registry(ImageStore):
    """A store whose podman pulls when it is told to go on."""

    def __init__(self, base: Path) -> None:
        super().__init__(PodmanSettings(Path(base / "s"), base / "d", base / "i", base / "l"))
        self.words: list[str] = []
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.stored: str | None = None

    def find(self, reference: str) -> str | None:
        """As `ImageStore.find`."""
        return self.stored

    async def _podman(self, root: Path, words: Sequence[str], timeout_s: float) -> CallResult:
        self.words.append(words[0])
        if words[0] == "pull":
            self.begun.set()
            await self.go_on.wait()
        return CallResult(0, b"sha256:1\n", b"")

    async def _load(self, archive: Path, name: str, image_id: str) -> None:
        self.stored = name


async def test_a_pull_that_is_given_up_takes_nothing_from_the_next_one(tmp_path: Path) -> None:
    """A newer revision wants the same image: its pull begins when the place is clean."""
    store = Registry(tmp_path)
    first = asyncio.create_task(store.obtain(SPEC, None))
    async with asyncio.timeout(5):
        await store.begun.wait()
        second = asyncio.create_task(store.obtain(SPEC, None))
        first.cancel()
        await asyncio.wait([first])
        store.go_on.set()
        assert await second == {"main": "docker.io/x/y:1"}
    assert store.words == ["pull", "rmi", "pull", "save", "rmi"]


async def test_two_that_want_an_image_pull_it_once(tmp_path: Path) -> None:
    """Who waited finds it there."""
    store = Registry(tmp_path)
    both = [asyncio.create_task(store.obtain(SPEC, None)) for _ in range(2)]
    store.go_on.set()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*both) == [{"main": "docker.io/x/y:1"}] * 2
    assert store.words == ["pull", "save", "rmi"]
