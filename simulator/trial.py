"""One trial: a mesh forms, works are handed in, faults torment it for a while, all is mended, and it must recover."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from beemesh.dht.records import point_of
from beemesh.dht.region import distance
from beemesh.errors import BeemeshError
from beemesh.events import FindProviders, PutIntent, Submitted
from beemesh.intents.record import Cordon, Intent, cordon_key
from beemesh.workloads.record import Workload
from simulator.checkers.directory import DirectoryChecker
from simulator.checkers.durability import DurabilityChecker
from simulator.checkers.intents import IntentChecker
from simulator.checkers.membership import MembershipChecker
from simulator.liar import Liar
from simulator.locks import Locks
from simulator.machine import Machine
from simulator.operator import deployment, grant_operator, may_be_lost, submission
from simulator.ordeal import Ordeal
from simulator.panel import Panel, always
from simulator.plan import FORMING_S, draw
from simulator.turnover import Load, draw_turnover, leave_out
from simulator.world import MESH, World

HEAL_S = 120.0
"""After the last fault everything must be well again within this time: suspicion, leases that have to run out, one
comparison of the records with everybody, back-off of what failed, and the abstention of whoever lost its disk."""

PATIENT = 0.25
"""So many trials wait for all of `HEAL_S`, since some things go wrong later, such as a record that nobody publishes
again; the others end their healing when all has been well for `WELL_S`."""

WELL_S = 15.0

LOCKS_AFTER_S = 20.0
"""So long after the last fault machines still quarrel over leases: whoever lost its memory votes again then."""

LOOKUPS_S = 8.0
"""So long the records of the DHT may be looked up in the end: a lookup ends within five seconds."""

FAREWELL_S = 30.0
"""When all is well again one machine goes for good, and all others know it within this time."""


CROWD_PART = 0.2
"""Trials in which a fifth of the machines at most, those nearest to the key of a manifest, deny all records to the end:
whoever chose its members' IDs so. A mesh's CA signs them, but who runs a machine may have made many keys."""
CROWD_SHARE = 0.2


class Trial(Ordeal):
    """One seed. The same seed, size and duration give the same trace."""

    def __init__(self, seed: int, nodes: int, seconds: float, *, until_first: bool = False) -> None:
        """With `until_first` it ends at the first violation."""
        chance = random.Random(seed)  # noqa: S311 - a simulation wants chance that repeats
        super().__init__(seed, seconds, chance, draw(chance, nodes, seconds), nodes, until_first=until_first)
        self._submitted: dict[int, Intent] = {}
        self._accepted = IntentChecker(self._submitted)
        self._directory = DirectoryChecker()
        locks_end_s = FORMING_S + seconds + LOCKS_AFTER_S
        self._locks = Locks(self.world, self.plan.locks, locks_end_s, chance.getrandbits(32))
        self._well_s = HEAL_S if chance.random() < PATIENT else WELL_S
        changes = random.Random(f"turnover {seed}")  # noqa: S311
        crowd = random.Random(f"crowd {seed}")  # noqa: S311
        self.crowd = crowd.randint(1, int(nodes * CROWD_SHARE)) if _crowds(crowd, nodes) else 0
        """Machines that will crowd the key of the first manifest."""
        self._turnover = draw_turnover(changes, nodes, seconds, forgetful="wipe" in self.plan.kinds)

    # --- phases ---------------------------------------------------------------------------------------------------

    def _phases(self) -> None:
        self._form()
        self._torment(self._loads())
        self._mend()
        self._heal()
        self._panel.at_end()
        self._farewell()

    def _form(self) -> None:
        world = self.world
        grant_operator(world)
        kinds = self.plan.kinds
        checkers = (
            *always(forgetful="wipe" in kinds, hostile="hostile" in kinds),
            self._accepted,
            self._directory,
            MembershipChecker(),
            DurabilityChecker(self._submitted),
        )
        self._panel = Panel(world, checkers, self._blame)
        world.watch = self._saw
        leave_out(world, [index for _, index in self._turnover.joins])
        world.start_all()
        self._run_for(FORMING_S)
        self._disturb()
        self._locks.begin()

    def _loads(self) -> list[Load]:
        """What happens while faults last."""
        begins: list[Load] = []
        for number, (at_s, index, replicas, tolerant) in enumerate(self.plan.applies):
            begins.append((at_s, partial(self._apply, number, index, replicas, tolerant)))
        for number, (at_s, *who) in enumerate(self.plan.rivals):
            begins.append((at_s, partial(self._quarrel, number, who)))
        return begins + self._turnover.loads(self.world, self._tell)

    def _heal(self) -> None:
        """Until all is well and stays so, or the time for that is over; whoever finds no manifest then may look again
        as long as there is time."""
        began_s = well_s = self.world.now_s
        end_s = began_s + HEAL_S
        while True:
            while self.world.now_s < min(well_s + self._well_s, end_s - LOOKUPS_S):
                self._run_for(1.0)
                if self.world.now_s < began_s + LOCKS_AFTER_S or not self._panel.is_well:
                    well_s = self.world.now_s
            self._look_up()
            self._run_for(LOOKUPS_S)
            if self._panel.is_well or self.world.now_s >= end_s:
                break
            well_s = self.world.now_s
        self.outcome.healed_s = well_s - began_s

    def _look_up(self) -> None:
        """Each accepted manifest's keepers, at some node."""
        members = self._members()
        for number, intent in enumerate(self._accepted.accepted):
            asker = members[(self.seed + number) % len(members)].index
            self._directory.asked(asker, intent.key)
            self.world.event(asker, FindProviders(intent.key, "manifest", _manifest_of(intent)))

    def _farewell(self) -> None:
        """One machine goes for good: whoever was kept from noticing deaths by what happened before shows it now."""
        world, members = self.world, self._members()
        if self.outcome.violations or len(members) < 2:
            return
        gone = members[self.seed % len(members)]
        self._tell(f"n{gone.index} goes for good")
        world.kill(gone.index, power=True)
        end_s = world.now_s + FAREWELL_S
        while world.now_s < end_s and (unaware := self._who_holds_alive(gone)):
            self._run_for(min(1.0, end_s - world.now_s))
        for index in unaware:
            self._blame("membership", f"n{index} holds n{gone.index} alive, which is gone for good")

    def _members(self) -> list[Machine]:
        return [machine for machine in self.world.machines if machine.is_member]

    def _who_holds_alive(self, gone: Machine) -> list[int]:
        up = [
            (machine.index, machine.composition) for machine in self.world.machines if machine.composition is not None
        ]
        return [index for index, node in up if node.view.is_alive(gone.membership.node_id)]

    # --- loads ----------------------------------------------------------------------------------------------------

    def _apply(self, number: int, index: int, replicas: int, tolerant: bool) -> None:
        if may_be_lost(self.world, index, forgetful="wipe" in self.plan.kinds):
            return
        draft, token = deployment(f"work{number}", replicas, tolerant=tolerant), number + 1
        doubled = "" if tolerant else ", never doubled"
        try:
            self._submitted[token], command = submission(self.world, index, draft, token)
        except BeemeshError:
            return  # the machine is down, or sees too few others
        self._tell(f"apply {draft.name} ({replicas} replicas{doubled}) at n{index}")
        self.world.event(index, command)

    def _quarrel(self, number: int, who: Sequence[int]) -> None:
        """Two records of one key and number, entered at two machines at once: one wins, everywhere the same."""
        key = cordon_key(f"quarrel{number}")
        for index in who:
            record = self.world.sign(self.world.operator, "cordon", key, Cordon(f"quarrel{number}", False, f"n{index}"))
            self.world.event(index, PutIntent(record))
        self._tell(f"quarrel{number} between n{who[0]} and n{who[1]}")

    @staticmethod
    def nearest(world: World, manifest: str) -> list[Machine]:
        """Members, those first that are nearest to where the keepers of a manifest are looked up."""
        point = point_of(MESH, "manifest", manifest)
        members = [machine for machine in world.machines if machine.is_member]
        return sorted(members, key=lambda machine: distance(machine.membership.node_id, point))

    def _crowd_in(self, intent: Intent) -> None:
        """Those nearest to the key where keepers of a manifest are looked up turn against it."""
        crowd, self.crowd = self.nearest(self.world, _manifest_of(intent))[: self.crowd], 0
        self._tell(f"{','.join(f'n{machine.index}' for machine in crowd)} crowd the manifest of {intent.key}")
        for machine in crowd:
            self.world.liars[machine.index] = liar = Liar(machine.crypto, self.world.ring, self.seed)
            liar.crowd([each.membership.node_id for each in crowd])

    def _saw(self, index: int, event: Any) -> None:
        super()._saw(index, event)
        if self.crowd and type(event) is Submitted and event.accepted:
            self._crowd_in(self._submitted[event.token])
        if type(event) in Locks.sees:
            self._locks.saw(index, event)


def _crowds(chance: random.Random, nodes: int) -> bool:
    return int(nodes * CROWD_SHARE) > 0 and chance.random() < CROWD_PART


def _manifest_of(intent: Intent) -> str:
    """The subject of the records that say who keeps it."""
    return msgspec.msgpack.decode(intent.body, type=Workload).current.manifest.hex()
