"""The virtual clock of a simulated world, what is to happen when, and whose machine stands still meanwhile."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial

from simulator.machine import Machine


class Agenda:
    """`run_until` and `run_for` advance the clock. What is due at one moment happens in the order in which it was
    planned."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.handled = 0
        """Events so far: messages that arrived, timers, jobs."""
        self.machines: list[Machine] = []
        self._heap: list[tuple[float, int, Callable[[], None], Machine | None]] = []
        self._count = 0

    def at(self, at_s: float, action: Callable[[], None], machine: Machine | None = None) -> None:
        """Do something at a moment, of the simulation's clock; on a `machine` that is paused then, once it is awake."""
        self._count += 1
        heapq.heappush(self._heap, (max(at_s, self.now_s), self._count, action, machine))

    def run_for(self, seconds: float) -> None:
        """Advance the clock."""
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], bool], patience_s: float) -> bool:
        """Advance until `condition` holds; False when it does not within `patience_s`."""
        end_s = self.now_s + patience_s
        while not condition():
            if not self._heap or self._heap[0][0] > end_s:
                self.now_s = end_s
                return condition()
            self.now_s, _, action, machine = heapq.heappop(self._heap)
            self.handled += 1
            if machine is not None and machine.paused_until_s > self.now_s:
                machine.waiting.append(action)
            else:
                action()
        return True

    def pause(self, index: int, seconds: float) -> None:
        """Stop a machine in its tracks (suspend, a starved virtual machine): its boot clock goes on."""
        machine = self.machines[index]
        machine.paused_until_s = max(machine.paused_until_s, self.now_s + seconds)
        self.at(machine.paused_until_s, partial(self._wake, machine))

    def wake(self, index: int) -> None:
        """End the pause of a machine, if it has one: all that waited for it happens now, one after the other."""
        machine = self.machines[index]
        machine.paused_until_s = min(machine.paused_until_s, self.now_s)
        self._wake(machine)

    def _wake(self, machine: Machine) -> None:
        if machine.paused_until_s <= self.now_s:
            waiting, machine.waiting = machine.waiting, []
            for action in waiting:
                self.at(self.now_s, action, machine)
