"""How often a living node is held dead: this mesh's failure detector against plain SWIM, in one harness.

128 nodes under a virtual clock; a tenth of them is starved again and again, up to 30 s long with up to 30 s between.
Half of the bursts are those of Lifeguard's own experiments: what the node sends and receives waits until the burst is
over, and its timers go on. In the other half it gets no CPU at all: it fires no timer either, then finds what its
socket kept and all overdue timers, in random order. A false death is one of a node outside that tenth, in anybody's
eyes, as in those experiments; whoever judges a life that did end, when the node is up again already, is late, and
counted apart. Both detectors are the same code; plain SWIM (Das 2002, as memberlist without
Lifeguard) has one accuser, a fixed suspicion time, no local health, no buddy, no stall detection. Its suspicion time
is set so that both take the same median time to notice a node that really died.

    python -m bench.false_deaths --hours 1            # goes on where an earlier run with the same --state ended
    python -m bench.false_deaths --hours 1 --hostile  # one member accuses everybody, as often as it may
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, field
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import msgspec

from beemesh.effects import (
    Answered,
    Asked,
    Cancel,
    Effects,
    Notify,
    Now,
    Received,
    Reply,
    Request,
    Schedule,
    Send,
    TimerFired,
)
from beemesh.events import MemberDown
from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import sign_statement
from beemesh.ids import BOOT_ID_BYTES, BootId, NodeId
from beemesh.intents.record import SIGNED_KIND, Intent, node_key
from beemesh.membership.claims import ClaimDesk
from beemesh.membership.messages import Claims, Suspect
from beemesh.membership.roster import Roster
from beemesh.membership.swim import Swim
from beemesh.membership.view import View
from bench.plain_swim import NoHealth, PlainMembers, PlainSwim
from simulator.crypto import FakeCrypto

WALL_MS = 1_800_000_000_000
DELAY_S = (0.0005, 0.003)
STARVED_PART = 0.1
BURST_S = (1.0, 30.0)
FROZEN_PART = 0.5
"""Of the bursts: no CPU at all. In the others messages wait, and timers do not."""
SOCKET_KEEPS = 90
"""Datagrams that the kernel's default buffer (208 KiB, some 2.3 KiB each with its overhead) holds for a process."""
KILL_EVERY_S, DOWN_S = 60.0, 90.0
WARM_UP_S = 20.0
HOSTILE_EVERY_S = 1.0
CALIBRATIONS, ALIKE_S = 4, 0.3
"""Tries to find plain SWIM's suspicion time, and how far the two median detection times may be apart."""

Action = Callable[[], None]


# --- the harness ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Process:
    """One node's process: its timers, and what its socket keeps while it is starved."""

    index: int
    swim: Swim
    view: View
    life: int = 0
    born_ms: int = 0
    """Its incarnations of this life begin here."""
    starved: bool = False
    frozen: bool = False
    up: bool = True
    waiting: list[Action] = field(default_factory=list)
    unsent: list[Action] = field(default_factory=list)
    timers: dict[Hashable, int] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """What one chunk counted. A death of a node that is up is false; `healthy` ones are of nodes never starved."""

    seconds: float = 0.0
    node_hours: float = 0.0
    healthy: int = 0
    healthy_victims: int = 0
    any_live: int = 0
    by_hostile: int = 0
    late: int = 0
    """Deaths of a node's former life, found after it was up again."""
    detections_s: list[float] = field(default_factory=list)
    messages: int = 0


class Harness:
    """A mesh of one kind of detector."""

    def __init__(self, size: int, seed: int, *, plain_s: float = 0.0, hostile: bool = False) -> None:
        """`plain_s` above 0: plain SWIM with that suspicion time."""
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.tally = Tally()
        self._plain_s = plain_s
        self._hostile = hostile
        self._heap: list[tuple[float, int, Action]] = []
        self._count = itertools.count()
        self._requests = itertools.count(1)
        self._replies: dict[int, Action] = {}
        self._keys = [FakeCrypto(f"n{index}".encode()) for index in range(size)]
        self.ids = [NodeId(keys.signer_id) for keys in self._keys]
        ca = FakeCrypto(b"ca")
        self._roster = Roster("bench", ca.sign_key)
        self._cards = []
        for index, keys in enumerate(self._keys):
            body = msgspec.msgpack.encode(_card(index, keys))
            intent = Intent("bench", "membership", node_key(f"n{index}"), 1, ca.signer_id, 0, body)
            self._roster.apply(intent)
            self._cards.append(sign_statement(ca, SIGNED_KIND, intent))
        self._index = {node_id: index for index, node_id in enumerate(self.ids)}
        self.processes = [self._process(index) for index in range(size)]
        self._killed_s: dict[int, float] = {}
        self._seen_dead: set[tuple[int, int]] = set()
        self._victims: dict[int, float] = {}
        self._starving: set[int] = set()

    def _process(self, index: int) -> Process:
        view = View(self.ids[index], self._roster)
        kind = PlainSwim if self._plain_s else Swim
        swim = kind(
            self.ids[index],
            BootId(self.random.randbytes(BOOT_ID_BYTES)),
            (f"10.0.{index // 250}.{index % 250}", 7946),
            self._cards[index],
            roster=self._roster,
            view=view,
            crypto=self._keys[index],
            randomness=self.random,
            new_request_id=self._requests.__next__,
        )
        if self._plain_s:
            plain = swim.members
            plain.__class__ = PlainMembers
            plain.suspicion_s = self._plain_s  # type: ignore[attr-defined]
            plain.health = NoHealth()
        return Process(index, swim, view)

    @property
    def now(self) -> Now:
        """This moment."""
        return Now(self.now_s, WALL_MS + int(self.now_s * 1000))

    def run(self, seconds: float) -> Tally:
        """A warm-up, then `seconds` with starvation, deaths and, if so chosen, lies."""
        for process in self.processes:
            self._at(self.random.uniform(0, 1), self._starter(process))
        self._until(WARM_UP_S)
        self.tally = Tally()
        begin_s = self.now_s
        self._starving = set(
            self.random.sample(range(1, len(self.processes)), round(len(self.processes) * STARVED_PART))
        )
        for index in sorted(self._starving):
            self._starve_later(index)
        self._at(self.now_s + KILL_EVERY_S, self._kill)
        if self._hostile:
            self._at(self.now_s, self._lie)
        self._until(begin_s + seconds)
        self.tally.seconds = seconds
        self.tally.node_hours = seconds / 3600 * len(self.processes)
        return self.tally

    def _starter(self, process: Process) -> Action:
        return lambda: self._carry(process, process.swim.start(self.now))

    def _until(self, end_s: float) -> None:
        while self._heap and self._heap[0][0] <= end_s:
            self.now_s, _, action = heapq.heappop(self._heap)
            action()
        self.now_s = end_s

    def _at(self, at_s: float, action: Action) -> None:
        heapq.heappush(self._heap, (max(at_s, self.now_s), next(self._count), action))

    # --- what happens to nodes ----------------------------------------------------------------------------------

    def _starve_later(self, index: int) -> None:
        self._at(self.now_s + self.random.uniform(*BURST_S), lambda: self._starve(index))

    def _starve(self, index: int) -> None:
        process = self.processes[index]
        process.starved = True
        process.frozen = self.random.random() < FROZEN_PART

        def end() -> None:
            process.starved = process.frozen = False
            waiting, process.waiting = [*process.waiting, *process.unsent], []
            process.unsent = []
            self.random.shuffle(waiting)
            for action in waiting:
                action()
            self._starve_later(index)

        self._at(self.now_s + self.random.uniform(*BURST_S), end)

    def _kill(self) -> None:
        self._at(self.now_s + KILL_EVERY_S, self._kill)
        calm = [process for process in self.processes[1:] if process.up and process.index not in self._starving]
        process = self.random.choice(calm)
        process.up = False
        process.life += 1
        process.waiting.clear()
        process.timers.clear()
        self._killed_s[process.index] = self.now_s
        self._at(self.now_s + DOWN_S, lambda: self._restart(process.index))

    def _restart(self, index: int) -> None:
        self._killed_s.pop(index, None)
        self._seen_dead = {pair for pair in self._seen_dead if pair[1] != index}
        old, new = self.processes[index], self._process(index)
        new.life, new.born_ms = old.life + 1, self.now.wall_ms
        self.processes[index] = new
        self._carry(new, new.swim.start(self.now))

    def _lie(self) -> None:
        """Node 0 accuses somebody of everybody's table with a true signature, to everybody, as its budget allows."""
        self._at(self.now_s + HOSTILE_EVERY_S, self._lie)
        liar = self.processes[0]
        victim = self.random.randrange(1, len(self.processes))
        known = liar.swim.members.get(self.ids[victim])
        incarnation = known.incarnation if known is not None else 1
        statement = Suspect(self.ids[0], self.ids[victim], incarnation, self.now.wall_ms)
        claim = ClaimDesk(self._keys[0], self._roster).sign("suspect", statement)
        for process in self.processes[1:]:
            if process.index != victim:
                self._carry(liar, [Send(self.ids[process.index], Claims((claim,)))])

    def _down(self, observer: Process, node_id: NodeId) -> None:
        victim = self.processes[self._index[node_id]]
        if not victim.up:
            pair = (observer.index, victim.index)
            if pair not in self._seen_dead and victim.index in self._killed_s:
                self._seen_dead.add(pair)
                self.tally.detections_s.append(self.now_s - self._killed_s[victim.index])
            return
        member = observer.swim.members.get(node_id)
        if member is not None and member.incarnation < victim.born_ms:
            self.tally.late += 1
            return
        self.tally.any_live += 1
        if victim.index in self._starving:
            return
        self.tally.healthy += 1
        if self.now_s - self._victims.get(victim.index, float("-inf")) > 60.0:
            self._victims[victim.index] = self.now_s
            self.tally.healthy_victims += 1
        doubt = member.suspicion if member is not None else None
        if doubt is not None and self.ids[0] in doubt.accusers and len(doubt.accusers) <= 2:
            self.tally.by_hostile += int(self._hostile)

    # --- effects ------------------------------------------------------------------------------------------------

    def _enter(self, process: Process, action: Action, *, kept: bool = True) -> None:
        """Let something happen in a process, now or when its burst ends."""
        if not process.up:
            return
        if not process.starved or (not kept and not process.frozen):
            action()
        elif not kept or len(process.waiting) < SOCKET_KEEPS + len(process.timers):
            process.waiting.append(action)

    def _event(self, process: Process, event: Any) -> Action:
        life = process.life

        def happen() -> None:
            if process.life == life and process.up:
                self._carry(process, process.swim.handle(event, self.now))

        return happen

    def _carry(self, process: Process, effects: Effects) -> None:
        for effect in effects:
            match effect:
                case Send(to=to, message=message):
                    self.tally.messages += 1
                    self._leave(process, to, Received(self.ids[process.index], message))
                case Schedule(key=key, at_boot_s=at_s):
                    self._schedule(process, key, at_s)
                case Cancel(key=key):
                    process.timers.pop(key, None)
                case Request():
                    self._ask(process, effect)
                case Reply(token=token, message=message):
                    self._answer(token, message)
                case Notify(event=MemberDown(node_id=node_id)):
                    self._down(process, node_id)

    def _leave(self, process: Process, to: NodeId, event: Any) -> None:
        if not process.starved:
            self._deliver(to, event)
        elif len(process.unsent) < SOCKET_KEEPS:
            process.unsent.append(lambda: self._deliver(to, event))

    def _deliver(self, to: NodeId, event: Any) -> None:
        index = self._index[to]

        def arrive() -> None:
            target = self.processes[index]
            self._enter(target, self._event(target, event))

        self._at(self.now_s + self.random.uniform(*DELAY_S), arrive)

    def _schedule(self, process: Process, key: Hashable, at_s: float) -> None:
        number = next(self._count)
        process.timers[key] = number
        life = process.life

        def fire() -> None:
            if process.life == life and process.timers.get(key) == number:
                del process.timers[key]
                self._carry(process, process.swim.handle(TimerFired(key), self.now))

        self._at(at_s, lambda: self._enter(process, fire, kept=False))

    def _ask(self, process: Process, request: Request) -> None:
        token, life, done = next(self._count), process.life, [False]

        def answer(message: Any) -> None:
            if not done[0] and process.life == life:
                done[0] = True
                self._enter(process, self._event(process, Answered(request.request_id, request.to, message, "")))

        self._replies[token] = answer  # type: ignore[assignment]
        self._leave(process, request.to, Asked(self.ids[process.index], token, request.message))

        def give_up() -> None:
            self._replies.pop(token, None)
            answer(None)

        self._at(self.now_s + request.deadline_s, give_up)

    def _answer(self, token: int, message: Any) -> None:
        answer: Any = self._replies.pop(token, None)
        if answer is not None:
            self._at(self.now_s + self.random.uniform(*DELAY_S), lambda: answer(message))


def _card(index: int, keys: FakeCrypto) -> Membership:
    return Membership(
        mesh="bench",
        name=f"n{index}",
        node_id=NodeId(keys.signer_id),
        sign_key=keys.sign_key,
        open_key=keys.open_key,
        addresses=(f"10.0.{index // 250}.{index % 250}",),
        gossip_port=7946,
        api_port=7947,
        serial=1,
        signed_at_ms=0,
        not_after_ms=WALL_MS * 2,
    )


# --- running --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chunk:
    """One independent piece of a run."""

    nodes: int
    seconds: float
    seed: int
    plain_s: float
    hostile: bool


def run_chunk(chunk: Chunk) -> dict[str, Any]:
    """Simulate one piece."""
    started = time.process_time()
    harness = Harness(chunk.nodes, chunk.seed, plain_s=chunk.plain_s, hostile=chunk.hostile)
    tally = asdict(harness.run(chunk.seconds))
    return {**asdict(chunk), **tally, "cpu_s": round(time.process_time() - started, 1)}


def calibrate(nodes: int, seconds: float, pool: Any) -> tuple[float, float, float]:
    """(plain SWIM's suspicion time, our median detection time, its median with that suspicion time)."""
    ours = pool.map(run_chunk, [Chunk(nodes, seconds, 77, 0.0, False)])[0]
    ours_s = statistics.median(ours["detections_s"])
    chosen_s, found_s = ours_s, 0.0
    for _ in range(CALIBRATIONS):
        plain = pool.map(run_chunk, [Chunk(nodes, seconds, 77, chosen_s, False)])[0]
        found_s = statistics.median(plain["detections_s"])
        if abs(found_s - ours_s) <= ALIKE_S:
            break
        chosen_s = round(max(1.0, chosen_s + ours_s - found_s), 2)
    return chosen_s, ours_s, found_s


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates per node-hour and the median detection time of one detector."""
    hours = sum(result["node_hours"] for result in results)
    messages = sum(result["messages"] for result in results)
    found = [value for result in results for value in result["detections_s"]]
    return {
        "node_hours": round(hours, 1),
        "false_deaths": sum(result["healthy"] for result in results),
        "false_deaths_per_node_hour": round(sum(result["healthy"] for result in results) / hours, 4),
        "victims_per_node_hour": round(sum(result["healthy_victims"] for result in results) / hours, 4),
        "starved_too_per_node_hour": round(sum(result["any_live"] for result in results) / hours, 3),
        "late_deaths": sum(result["late"] for result in results),
        "by_hostile_accuser": sum(result["by_hostile"] for result in results),
        "detection_median_s": round(statistics.median(found), 2) if found else None,
        "messages_per_node_s": round(messages / (hours * 3600), 2),
    }


def main() -> int:
    """Run what is missing, print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=10.0, help="simulated hours of each detector (default 10)")
    parser.add_argument("--plain-hours", type=float, help="the same of plain SWIM, where fewer tell enough")
    parser.add_argument("--nodes", type=int, default=128)
    parser.add_argument("--chunk", type=float, default=600.0, help="simulated seconds of one piece (default 600)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--hostile", action="store_true", help="one member lies about everybody")
    parser.add_argument("--state", type=Path, default=Path(".false-deaths.jsonl"), help="finished pieces")
    options = parser.parse_args()
    done = [json.loads(line) for line in options.state.read_text().splitlines()] if options.state.exists() else []
    hours = {False: options.hours, True: options.hours if options.plain_hours is None else options.plain_hours}
    pieces = {plain: max(1, round(each * 3600 / options.chunk)) for plain, each in hours.items()}
    with Pool(options.jobs) as pool:
        kind = f"calibration {options.nodes}"
        known = next((each for each in done if each.get("kind") == kind), None)
        if known is None:
            plain_s, ours_s, check_s = calibrate(options.nodes, options.chunk, pool)
            known = {"kind": kind, "plain_s": plain_s, "ours": ours_s, "plain": check_s}
            with options.state.open("a") as file:
                file.write(json.dumps(known) + "\n")
        wanted = [
            Chunk(options.nodes, options.chunk, seed, plain_s, options.hostile)
            for seed in range(1, max(pieces.values()) + 1)
            for plain_s in ((0.0,) if options.hostile else (0.0, known["plain_s"]))
            if seed <= pieces[plain_s > 0]
        ]
        have = {_identity(each) for each in done if "seed" in each}
        missing = [chunk for chunk in wanted if _identity(asdict(chunk)) not in have]
        for result in pool.imap_unordered(run_chunk, missing):
            done.append(result)
            with options.state.open("a") as file:
                file.write(json.dumps(result) + "\n")
            told = (
                f"seed {result['seed']}, plain {result['plain_s']}: {result['healthy']} in {result['cpu_s']} s of CPU"
            )
            print(told, file=sys.stderr)
    chosen = {_identity(asdict(chunk)) for chunk in wanted}
    results = [each for each in done if "seed" in each and _identity(each) in chosen]
    ours = summary([each for each in results if not each["plain_s"]])
    report: dict[str, Any] = {"nodes": options.nodes, "hostile": options.hostile, "beemesh": ours}
    print(f"beemesh    {ours}")
    if not options.hostile:
        plain = summary([each for each in results if each["plain_s"]])
        report |= {"plain": plain, "plain_suspicion_s": known["plain_s"]}
        floor = max(ours["false_deaths_per_node_hour"], 1 / ours["node_hours"])
        report["times_fewer_at_least"] = round(plain["false_deaths_per_node_hour"] / floor, 1)
        print(f"plain SWIM {plain}\nat least {report['times_fewer_at_least']} times fewer (aim 50)")
    print(json.dumps(report))
    return 0


def _identity(piece: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(piece[name] for name in ("nodes", "seconds", "seed", "plain_s", "hostile"))


if __name__ == "__main__":
    sys.exit(main())
