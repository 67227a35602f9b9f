"""Does the simulator bite? Plants known bugs into a copy of the code, one at a time, and hunts each of them by seed.

    .venv/bin/python scripts/plant_bugs.py                       # all of them, on all cores; prints a table
    .venv/bin/python scripts/plant_bugs.py forged-death          # one, with what was found
    .venv/bin/python scripts/plant_bugs.py --state hunts.jsonl   # keeps what it did, and goes on there next time

The bugs are of the classes that peers had: memberlist and foca (incarnations, suspicion, refutation), Raft and
PySyncObj (votes forgotten, majorities miscounted), IPsec (replay windows), Kubernetes and Nomad (what is counted twice
or not at all, two of one replica, storms of restarts), and what one forgets in a hurry.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("beemesh", "simulator")
SEEDS = 2_000
"""Seeds within which a bug has to be found."""
ENOUGH = 0.95
"""Part of the bugs that has to be found: 19 of 20."""
AT_ONCE = 100
"""Seeds after which a hunt writes down how far it came."""
CONTROLS = {"(none)": "mesh", "(none, scheduling)": "scheduling"}
"""The code as it is, without a bug, by the kind of trial: nothing may be found."""


@dataclass(frozen=True, slots=True)
class Bug:
    """`before` stands once in `file`; with `after` in its place the code has the bug."""

    name: str
    what: str
    file: str
    before: str
    after: str
    kind: str = "mesh"
    """The kind of trial that looks for it."""


BUGS = (
    Bug(
        "stale-incarnation",
        "an older word of a member replaces a newer one",
        "beemesh/membership/members.py",
        "if member is None or alive.incarnation <= member.incarnation:",
        "if member is None or alive.incarnation == member.incarnation:",
    ),
    Bug(
        "unbounded-suspicion",
        "a suspicion never becomes a verdict",
        "beemesh/membership/suspicion.py",
        "return shortest, MAX_TIMEOUT_MULT * shortest",
        "return 1e6 * shortest, 1e6 * MAX_TIMEOUT_MULT * shortest",
    ),
    Bug(
        "forged-death",
        "an accusation counts without its author's signature",
        "beemesh/membership/members.py",
        'if not self.desk.holds(claim, suspect, relay, now):\n            return [_count("swim_claims_refused", ',
        'if claim is None:\n            return [_count("swim_claims_refused", ',
    ),
    Bug(
        "forged-life",
        "an Alive counts without its author's signature",
        "beemesh/membership/members.py",
        "if not self.desk.holds(claim, alive, relay, now):",
        "if claim is None:",
    ),
    Bug(
        "forged-farewell",
        "a Leave counts without its author's signature",
        "beemesh/membership/members.py",
        "if not self.desk.holds(claim, leave, relay, now):",
        "if claim is None:",
    ),
    Bug(
        "lone-accuser",
        "one accuser is enough for a death",
        "beemesh/membership/suspicion.py",
        "ACCUSERS_NEEDED = 2",
        "ACCUSERS_NEEDED = 1",
    ),
    Bug(
        "dead-forever",
        "the dead are not called any more, so nobody comes back from a partition",
        "beemesh/membership/view.py",
        'ABSENT: frozenset[str] = frozenset({"dead", "unknown"})',
        'ABSENT: frozenset[str] = frozenset({"unknown"})',
    ),
    Bug(
        "lost-timer",
        "a node that is alone for a moment never probes again",
        "beemesh/membership/swim.py",
        "        if target is None:\n            return effects\n",
        "        if target is None:\n            return []\n",
    ),
    Bug(
        "replay-window",
        "off by one: the newest datagram may come again",
        "beemesh/wire/replay.py",
        "return behind < 0 or (behind < WINDOW",
        "return behind <= 0 or (behind < WINDOW",
    ),
    Bug(
        "too-large",
        "the signature is forgotten in the size of a datagram",
        "beemesh/wire/datagram.py",
        "BODY_BYTES_MAX = DATAGRAM_BYTES_MAX - HEADER_BYTES - TAG_BYTES - ENVELOPE_OVERHEAD_BYTES",
        "BODY_BYTES_MAX = DATAGRAM_BYTES_MAX - HEADER_BYTES - TAG_BYTES",
    ),
    Bug(
        "no-majority",
        "half of the replicas are taken for a majority",
        "beemesh/dht/kset.py",
        "return size // 2 + 1",
        "return (size + 1) // 2",
    ),
    Bug(
        "forgotten-vote",
        "a replica's grants do not survive its restart",
        "beemesh/dht/compare_and_swap.py",
        "self._leases[lease.key] = _Standing(lease, saved.lease, saved.fence_seen, ends)",
        "assert ends",
    ),
    Bug(
        "no-abstention",
        "a replica that lost its disk votes at once",
        "beemesh/dht/abstention.py",
        "return any(self._must_wait_for(nearest(former.keepers, key), today) for former in self._former)",
        "return False",
    ),
    Bug(
        "double-vote",
        "a replica grants a lease while another's runs",
        "beemesh/dht/compare_and_swap.py",
        "if standing.runs(boot_s) and standing.lease.holder != lease.holder:",
        "if standing.runs(boot_s) and standing.lease.holder == lease.holder and standing.lease.fence > lease.fence:",
    ),
    Bug(
        "wall-clock-lease",
        "a replica counts a lease by the wall clock",
        "beemesh/dht/compare_and_swap.py",
        "fence_seen, now.boot_s + binds_for_s(lease.key, lease.ttl_ms))",
        "fence_seen, now.wall_ms / 1000 + binds_for_s(lease.key, lease.ttl_ms))",
    ),
    Bug(
        "long-belief",
        "a holder counts its lease from the answer, and for twice as long",
        "beemesh/dht/claims.py",
        "claim.expires_s = current.started_s + wish.ttl_ms / 1000",
        "claim.expires_s = now.boot_s + 2 * wish.ttl_ms / 1000",
    ),
    Bug(
        "unsaved-record",
        "a record is told of, and not saved",
        "beemesh/intents/map.py",
        "effects: Effects = [Save(TABLE, intent.key.encode(), msgspec.msgpack.encode(signed))]",
        "effects: Effects = []",
    ),
    Bug(
        "early-acceptance",
        "a record is called accepted before a second node has it",
        "beemesh/custody/submission.py",
        "submission.witnessed = not others",
        "submission.witnessed = True",
    ),
    Bug(
        "first-wins",
        "of two records with one number each node keeps the one that it saw first",
        "beemesh/intents/map.py",
        "if entry is not None and version <= entry.version:",
        "if entry is not None and (version.epoch, version.seq) <= (entry.version.epoch, entry.version.seq):",
    ),
    Bug(
        "stale-digest",
        "a changed record leaves the digest of its bucket as it was",
        "beemesh/intents/map.py",
        "        self._buckets[bucket_of(intent.key)] = None\n        self._roster.apply(intent)",
        "        self._roster.apply(intent)",
    ),
    Bug(
        "anybody-revokes",
        "records of the mesh CA are taken from anybody",
        "beemesh/intents/entitlement.py",
        "    elif intent.kind in CA_KINDS:\n        raise Untrusted(",
        "    elif intent.kind in CA_KINDS:\n        str(",
    ),
    Bug(
        "one-custodian",
        "all shares of a key go to the nearest keeper",
        "beemesh/custody/sealing.py",
        "return CustodyPlan(scheme, n // 2 + 1, tuple(chosen[:n]), holders)",
        "return CustodyPlan(scheme, n // 2 + 1, (chosen[0],) * n, holders)",
    ),
    Bug(
        "unleased-run",
        "what must not run twice runs without a lease",
        "beemesh/scheduling/execution/deploying.py",
        "if not placement.task.duplicate_tolerant:",
        "if placement.task is None:",
    ),
    Bug(
        "lost-republish",
        "what a keeper has on its disk is not told of again after its start",
        "beemesh/custody/custodians.py",
        "return [*kept, Schedule((",
        "return [Schedule((",
    ),
    Bug(
        "late-stop",
        "a pod runs on for ten seconds after its run lease",
        "beemesh/scheduling/execution/run_leases.py",
        "until_s = ends_s - RUN_LEASE_MARGIN_S",
        "until_s = ends_s + 10.0",
        "scheduling",
    ),
    Bug(
        "unleased-adoption",
        "a pod that an earlier agent started runs on without a run lease",
        "beemesh/scheduling/execution/pod_keeper.py",
        "adopted += [] if placement.task.duplicate_tolerant else self._run_leases.adopt(placement, now)",
        "adopted += []",
        "scheduling",
    ),
    Bug(
        "lease-given-up-early",
        "the run lease goes before the pod does",
        "beemesh/scheduling/execution/pod_keeper.py",
        "noted, job = self.ending(name), self.stop_job",
        "noted, job = [*self.ending(name), *self._run_leases.release(name)], self.stop_job",
        "scheduling",
    ),
    Bug(
        "uncounted-cpu",
        "a bidder counts all of its cores as free",
        "beemesh/scheduling/local_work.py",
        "cpu_m_free=max(0, free.cpu_m)",
        "cpu_m_free=cpu_m",
        "scheduling",
    ),
    Bug(
        "unreserved-adoption",
        "a pod that an earlier agent started is not reserved for",
        "beemesh/scheduling/execution/pod_keeper.py",
        "adopted = self.promise(name, placement.task, started=True)",
        "adopted: Effects = []",
        "scheduling",
    ),
    Bug(
        "room-given-twice",
        "what a cancelled start needs is given away while it still runs",
        "beemesh/scheduling/execution/deploying.py",
        "                *self._keeper.ending(name),\n",
        "                *self._keeper.withdraw(name),\n                *self._keeper.ending(name),\n",
        "scheduling",
    ),
    Bug(
        "forgotten-failures",
        "a steward tries again at once, whatever failed",
        "beemesh/scheduling/stewardship/hosting.py",
        "count=before.count + 1 if blamed else max(1, before.count)",
        "count=0",
        "scheduling",
    ),
    Bug(
        "forgotten-tasks",
        "a steward publishes what it has published already",
        "beemesh/workloads/reconciler.py",
        "taken = slot in self.active or slot in self.done or slot in self.observed.starting",
        "taken = slot in self.active or slot in self.done",
        "scheduling",
    ),
    Bug(
        "wrong-one-drained",
        "of two duplicates the one with the right is asked to end",
        "beemesh/workloads/reconciler.py",
        "stays = max(reports, key=lambda each: each.order)",
        "stays = min(reports, key=lambda each: each.order)",
        "scheduling",
    ),
    Bug(
        "short-grant",
        "a replica counts a lease for half as long as its holder",
        "beemesh/dht/compare_and_swap.py",
        "fence_seen, now.boot_s + binds_for_s(lease.key, lease.ttl_ms))",
        "fence_seen, now.boot_s + lease.ttl_ms / 2000)",
        "scheduling",
    ),
    Bug(
        "late-claims",
        "losers claim a replica that runs already",
        "beemesh/scheduling/auction/bidding.py",
        "done = [each for each in mine if (each.task.revision, each.task.replica) == same]",
        "done = [] if same else mine",
        "scheduling",
    ),
    Bug(
        "surplus-kept",
        "what is scaled away runs on",
        "beemesh/workloads/reconciler.py",
        "if not self.declared.wants(report.replica):",
        "if not self.declared.wants(max(0, report.replica - 10)):",
        "scheduling",
    ),
    Bug(
        "room-kept",
        "what a pod held stays reserved when it is gone",
        "beemesh/scheduling/execution/pod_keeper.py",
        "return self.forget(name) + self.withdraw(name) + self._run_leases.release(name)",
        "return self.forget(name) + self._run_leases.release(name)",
        "scheduling",
    ),
    Bug(
        "new-before-old",
        "what must not be doubled is updated new first",
        "beemesh/workloads/reconciler.py",
        "exclusive=not workload.duplicate_tolerant",
        "exclusive=False",
        "scheduling",
    ),
)


@dataclass(frozen=True, slots=True)
class Hunt:
    """How far the hunt of one bug came; `seed` is -1 while nothing was found."""

    name: str
    seed: int = -1
    nodes: int = 0
    seeds: int = 0
    cpu_s: float = 0.0
    """Seconds of one core that the trials took."""
    violation: str = ""


def plant(bug: Bug, folder: Path) -> None:
    """Change the copy of the code in `folder`; raises `ValueError` when the place is not there just once."""
    file = folder / bug.file
    text = file.read_text()
    if text.count(bug.before) != 1:
        raise ValueError(f"{bug.name}: its place is {text.count(bug.before)} times in {bug.file}, not once: mend BUGS")
    file.write_text(text.replace(bug.before, bug.after))


def copy_code(source: Path, folder: Path) -> None:
    """What a simulation needs, into an empty folder."""
    for part in COPIED:
        shutil.copytree(source / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))


def hunt(begun: Hunt, seeds: int, state: Path | None, source: Path = ROOT) -> Hunt:
    """Go on with a hunt over a copy of the code with its bug (or without any), until it is found or `seeds` are tried.

    Whoever stops it loses the last hundred seeds at most: the rest stands in `state`.
    """
    bug = next((each for each in BUGS if each.name == begun.name), None)
    kind = bug.kind if bug is not None else CONTROLS[begun.name]
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        folder = Path(name)
        copy_code(source, folder)
        if bug is not None:
            plant(bug, folder)
        while not begun.violation and begun.seeds < seeds:
            begun = _some_seeds(begun, min(seeds, begun.seeds + AT_ONCE), folder, kind)
            if state is not None:
                with state.open("a") as file:
                    file.write(json.dumps(asdict(begun)) + "\n")
    return begun


def _some_seeds(begun: Hunt, until: int, folder: Path, kind: str) -> Hunt:
    command = [sys.executable, "-m", "simulator", "hunt", "--kind", kind, "--seeds", f"{begun.seeds}..{until - 1}"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if not lines:
        raise RuntimeError(f"the hunt of {begun.name} ended with {done.returncode}: {done.stderr[-2000:]}")
    found = json.loads(lines[-1])
    cpu_s = round(begun.cpu_s + found["cpu_s"], 1)
    return Hunt(begun.name, found["seed"], found["nodes"], begun.seeds + found["seeds"], cpu_s, found["violation"])


def begun_hunts(state: Path | None) -> dict[str, Hunt]:
    """The hunts that a state file tells of, each as far as it came."""
    if state is None or not state.is_file():
        return {}
    hunts = (Hunt(**json.loads(line)) for line in state.read_text().splitlines() if line.strip())
    return {each.name: each for each in hunts}


def line_of(done: Hunt) -> str:
    """One row of the table."""
    told = f"seed {done.seed}, {done.nodes} nodes: {done.violation}" if done.violation else "nothing found"
    return f"{done.name:20} {done.seeds:5} seeds {done.cpu_s:7.1f} s  {told}"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when enough bugs were found, and nothing where there is no bug."""
    parser = argparse.ArgumentParser(description="Plants known bugs and hunts them with the simulator.")
    parser.add_argument("names", nargs="*", help="bugs to plant; all when none is named")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="after so many a bug counts as not found")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="hunts at a time")
    parser.add_argument("--state", type=Path, help="a file of what was done: an interrupted run goes on there")
    parser.add_argument("--json", type=Path, help="a file for the result, as JSON")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - {bug.name for bug in BUGS}
    if unknown:
        parser.error(f"no such bug: {', '.join(sorted(unknown))}; there are {', '.join(bug.name for bug in BUGS)}")
    begun = begun_hunts(options.state)
    names = [bug.name for bug in BUGS if not options.names or bug.name in options.names]
    hunts: list[Hunt] = []
    with tempfile.TemporaryDirectory(prefix="unplanted-") as source:
        copy_code(ROOT, Path(source))  # whatever is edited meanwhile
        work = partial(hunt, seeds=options.seeds, state=options.state, source=Path(source))
        with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
            for done in pool.imap(work, [begun.get(name, Hunt(name)) for name in names]):
                hunts.append(done)
                print(line_of(done), flush=True)
        found = [each for each in hunts if each.violation]
        as_many = partial(work, seeds=max((each.seeds for each in found), default=1))
        kinds = {bug.kind for bug in BUGS if bug.name in names}
        wanted = [name for name, kind in CONTROLS.items() if kind in kinds]
        controls = [as_many(begun.get(name, Hunt(name))) for name in wanted]
    print(*map(line_of, controls), sep="\n")
    print(f"{len(found)} of {len(hunts)} bugs found")
    if options.json is not None:
        report = {"found": len(found), "planted": len(hunts), "seeds_at_most": options.seeds,
                  "without_a_bug": [asdict(each) for each in controls],
                  "hunts": [asdict(each) for each in hunts]}  # fmt: skip
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if not any(each.violation for each in controls) and len(found) >= ENOUGH * len(hunts) else 1


if __name__ == "__main__":
    sys.exit(main())
