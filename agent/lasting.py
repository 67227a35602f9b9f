"""Work that lasts as long as the agent: what breaks it is told, and it goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

log = logging.getLogger("beemesh.daemon")

AGAIN_S = 5.0
"""A moment without memory, descriptors or processes is over by then, or soon; a fault of ours fills no log."""


def start_lasting(work: Callable[[], Coroutine[None, None, None]], name: str) -> asyncio.Task[None]:
    """Begin `work`, and begin it again a while after it failed: an agent without it would go on as if nothing were
    amiss, with nobody who looks at its pods or renews its certificates. Ends when the work ends, or is cancelled."""
    return asyncio.create_task(_last(work, name), name=name)


async def _last(work: Callable[[], Coroutine[None, None, None]], name: str) -> None:
    while True:
        try:
            return await work()
        except Exception:
            log.exception("%s broke; it goes on in %g s", name, AGAIN_S)
        await asyncio.sleep(AGAIN_S)
