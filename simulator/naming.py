"""What people call the workloads of a scenario: `web` where only one is called so, else `prod/web` or the whole ID."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from beemesh.errors import InvalidInput
from beemesh.workloads.quantities import mebibytes, millicores
from beemesh.workloads.record import Workload
from simulator.observer import short
from simulator.operator import deployment
from simulator.scenario import Step
from simulator.spec import SHOWN_MAX

ALL = "all"
"""Every workload of the manifests."""

_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")


class Names:
    """The workloads of manifests, and those that `apply` steps make up."""

    def __init__(self, works: Iterable[Workload]) -> None:
        self._works = {work.workload_id: work for work in works}
        self._known = dict.fromkeys(self._works)

    def drafts(self, step: Step) -> tuple[Workload, ...]:
        """What an `apply` step applies: workloads of the manifests, or one that its own words make up. Its names are
        known from then on. Raises `InvalidInput` when it can mean nothing."""
        if step.who == ALL:
            if not self._works:
                raise InvalidInput("apply all: there are no manifests", hint="name a workload: apply web replicas=2")
            if step.options.keys() - {"via"}:
                raise InvalidInput("apply all: manifests say how many and how large", hint="change it there")
            return tuple(self._works.values())
        found = _called(step.who, self._works)
        if not found:
            draft = _made_up(step, self._works)
            self._known[draft.workload_id] = None
            return (draft,)
        draft = self._works[_only(step.who, found)]
        unused = [each for each in step.options if each not in ("replicas", "via")]
        if unused or ("replicas" in step.options and draft.kind != "Deployment"):
            said = unused[0] if unused else "replicas"
            raise InvalidInput(f"apply {step.who}: its manifest says {said}", hint="change it there")
        if "replicas" in step.options:
            draft = msgspec.structs.replace(draft, replicas=int(step.options["replicas"]))
        return (draft,)

    def of(self, word: str) -> str:
        """The ID of the workload that a step calls so; raises `InvalidInput` where there is none, or several."""
        found = _called(word, self._known)
        if not found:
            raise InvalidInput(f"nothing applies a workload {word!r}", hint=_there_are(self._known))
        return _only(word, found)

    def those(self, word: str) -> tuple[str, ...]:
        """The IDs of the workloads that a `delete` step means."""
        return tuple(self._works) if word == ALL and self._works else (self.of(word),)


def _called(word: str, workload_ids: Iterable[str]) -> list[str]:
    return [each for each in workload_ids if word in (each, short(each)) or each.endswith(f"/{word}")]


def _only(word: str, found: Sequence[str]) -> str:
    if word in found:
        return word
    if len(found) > 1:
        raise InvalidInput(f"{word!r} may be any of {', '.join(found)}", hint="write the one that is meant in full")
    return found[0]


def _there_are(workload_ids: Iterable[str]) -> str:
    known = [short(each) for each in workload_ids]
    return f"there are {', '.join(known[:SHOWN_MAX])}{', …' * (len(known) > SHOWN_MAX)}" if known else ""


def _made_up(step: Step, works: Iterable[str]) -> Workload:
    options = step.options
    if _NAME.fullmatch(step.who) is None:
        raise InvalidInput(f"there is no workload {step.who!r}", hint=_there_are(works))
    cpu_m, mem_mb = millicores(options.get("cpu", "10m")), mebibytes(options.get("memory", "16Mi"))
    tolerant = options.get("once", "no") in ("no", "false")
    return deployment(step.who, int(options.get("replicas", "1")), cpu_m=cpu_m, mem_mb=mem_mb, tolerant=tolerant)
