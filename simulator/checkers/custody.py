"""Who keeps which share of a key, and to whom it was given: one share each, and to one machine at a time."""

from __future__ import annotations

from typing import Any

import msgspec

from beemesh.custody.custodians import TABLE_SERVED, TABLE_SHARES
from beemesh.effects import Save
from beemesh.intents.record import workload_key
from beemesh.workloads.record import Workload
from simulator.checkers import Blame
from simulator.world import World


class _Share(msgspec.Struct, frozen=True, array_like=True):
    """The front of a kept share's row."""

    key: str
    index: int


class _Served(msgspec.Struct, frozen=True, array_like=True):
    """A row that says for whom a custodian decided."""

    fence: int
    node_id: bytes
    majority_fence: int
    """The highest that was served to a majority's proof."""


WATCHED = frozenset({TABLE_SHARES, TABLE_SERVED})


class CustodyChecker:
    """Reads what custodians write down before they answer."""

    name = "custody"
    sees: tuple[type, ...] = (Save,)

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bytes], int] = {}
        """(machine, manifest) → index of the share that it ever got."""
        self._keeper_of: dict[tuple[bytes, int], int] = {}
        """(manifest, index of a share) → the one machine that keeps it."""
        self._served: dict[tuple[int, int, bytes], _Served] = {}
        """(custodian, how often it lost its disk, place) → for whom it decided last."""
        self._winner: dict[tuple[bytes, int], bytes] = {}
        """(place, fence) → who got shares, where nothing may run twice."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A custodian saves a share, or that it gives one out."""
        if isinstance(event, Save) and event.table == TABLE_SHARES:
            self._share(index, event.key, msgspec.msgpack.decode(event.value, type=_Share), blame)
        elif isinstance(event, Save) and event.table == TABLE_SERVED:
            self._release(world, index, event.key, msgspec.msgpack.decode(event.value, type=_Served), blame)

    def _share(self, index: int, manifest: bytes, share: _Share, blame: Blame) -> None:
        if self._kept.setdefault((index, manifest), share.index) != share.index:
            blame(f"n{index} got a second share of the key of {share.key}")
        if self._keeper_of.setdefault((manifest, share.index), index) != index:
            blame(f"n{index} got share {share.index} of the key of {share.key}, which another node keeps")

    def _release(self, world: World, index: int, place: bytes, served: _Served, blame: Blame) -> None:
        known = (index, world.machines[index].wipes, place)
        before = self._served.get(known)
        where = _readable(place)
        if before is not None:
            # What a minority let through binds no majority.
            floor = before.majority_fence if served.fence == served.majority_fence else before.fence
            if served.fence < floor or served.majority_fence < before.majority_fence:
                blame(f"n{index} went back from fence {floor} to {served.fence} for {where}")
            if served.fence == floor and served.node_id != before.node_id:
                blame(f"n{index} released {where} to two nodes at fence {served.fence}")
        self._served[known] = served
        if not self._is_tolerant(world, index, place):
            winner = self._winner.setdefault((place, served.fence), served.node_id)
            if winner != served.node_id:
                blame(f"{where} was released to two nodes at fence {served.fence}, and may not run twice")

    def _is_tolerant(self, world: World, index: int, place: bytes) -> bool:
        composition = world.machines[index].composition
        key = workload_key(_readable(place).rpartition("/")[0])
        found = composition.intents.get(key) if composition is not None else None
        if found is None or found[0].kind != "workload":
            return True
        return msgspec.msgpack.decode(found[0].body, type=Workload).duplicate_tolerant

    def look(self, world: World, blame: Blame) -> None:
        """Shares are given out in events."""

    def at_end(self, world: World, blame: Blame) -> None:
        """Nothing more."""


def _readable(place: bytes) -> str:
    """`<workload>/<replica>` of a place, which ends with `/` and a manifest's address of 32 bytes."""
    return place[:-33].decode("utf-8", "replace")
