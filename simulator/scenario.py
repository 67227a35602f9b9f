"""Scenarios: plain text that says what machines there are, what happens to them and when, and what must come of it.

    # one of three survives
    nodes 3
    at 0s   apply web replicas=2
    at 10s  kill n0,n1
    at 90s  expect running web=2
    end 90s

Where a machine is meant, `@steward:web` means the one that hosts the reconciler of `web` just then, and `@runner:web`
the one that runs its first replica.

`parse` reads such a text; `simulator.stage` plays it. Words on a line are separated by blanks; `#` begins a comment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from beemesh.errors import InvalidInput, Problem
from beemesh.workloads.quantities import mebibytes, millicores
from simulator.spec import MachineSpec, machine

NODES_MAX = 10_000
SCENARIO_BYTES_MAX = 1 << 20

DEFAULT_END_S = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens. `who` and `other` are selectors, `lasts_s` is 0 for what is not undone, `options` are
    the words `name=value` behind it."""

    at_s: float
    action: str
    who: str = ""
    other: str = ""
    lasts_s: float = 0.0
    options: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    line: int = 0

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Scenario:
    """A whole scenario. `machines` is empty when the text names none: then they come from elsewhere."""

    machines: tuple[MachineSpec, ...]
    steps: tuple[Step, ...]
    end_s: float
    seed: int = 0
    loss: float = 0.0
    delay_s: tuple[float, float] = (0.0005, 0.003)
    absent: Mapping[str, int] = field(default_factory=dict)
    """Machines that do not run in the beginning, each with the line that says so."""
    file: str = ""
    """Where it was read from, for what is wrong with it."""


FAULTS = ("kill", "crash", "wipe", "pause", "cut", "cut-one-way", "loss", "slow", "skew", "drain")
"""Actions after which it is told how long the mesh took to notice and to recover."""

_LASTING = ("kill", "crash", "wipe", "pause", "cut", "cut-one-way", "loss", "slow")
"""Actions that `for DURATION` undoes."""

_WHO = ("kill", "crash", "wipe", "start", "leave", "pause", "drain", "uncordon")
_OPTIONS = {
    "apply": {"replicas", "cpu", "memory", "via", "once"},
    "delete": {"via"},
    "skew": {"by"},
    "slow": {"by"},
    "loss": {"share"},
    "drain": {"force"},
}
EXPECTATIONS = ("running", "alive", "dead", "agree", "single", "never-doubled", "refused", "empty", "never-below")
_EXPECTED = {
    "running": "workloads and how many of each: running web=3",
    "never-below": "workloads and the least of each: never-below web=2",
    "alive": "one number of nodes: alive 5",
    "dead": "who is held dead: dead n0",
    "empty": "which machines: empty n0",
    "refused": "which workloads: refused web",
    "agree": "nothing behind it",
    "single": "nothing behind it",
}
"""What is to stand behind each of them; workloads may stand behind `never-doubled`."""

_COUNTED = re.compile(r"[^=]+=[0-9]{1,5}")
_FACTOR = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")

REPLICAS_MAX = 10_000
CPU_M_MAX = 1_000_000_000
MEM_MB_MAX = 1 << 40
"""More than any machine has (a million cores, an exbibyte), and few enough for every sum of them."""


def parse(text: str, file: str = "") -> Scenario:
    """Read a scenario; raises `InvalidInput` with every line that cannot be read."""
    if len(text.encode()) > SCENARIO_BYTES_MAX:
        raise InvalidInput(f"{file or 'the scenario'} is larger than {SCENARIO_BYTES_MAX} bytes")
    reading = _Reading(file)
    for number, line in enumerate(text.splitlines(), start=1):
        reading.line(number, line.partition("#")[0].split())
    return reading.scenario()


def seconds(text: str) -> float:
    """`90s`, `250ms`, `2m` or `1h` in seconds; raises `ValueError` for anything else."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h)", text)
    if match is None:
        raise ValueError(f"{text!r} is no duration (write 250ms, 90s, 2m or 1h)")
    return float(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[match[2]]


def share(text: str) -> float:
    """`30%` as 0.3; raises `ValueError` for anything else."""
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,3})?)%", text)
    if match is None or float(match[1]) > 100:
        raise ValueError(f"{text!r} is no share (write a number up to 100%)")
    return float(match[1]) / 100


class _Reading:
    """Collects lines, and what is wrong with them."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._problems: list[Problem] = []
        self._names: list[str] = []
        self._known: set[str] = set()
        self._sites: dict[str, str] = {}
        self._steps: list[Step] = []
        self._absent: dict[str, int] = {}
        self._line = 0
        self._end_s: float | None = None
        self._seed = 0
        self._loss = 0.0
        self._delay_s = (0.0005, 0.003)

    def line(self, number: int, words: list[str]) -> None:
        """One line, split into words."""
        if not words:
            return
        self._line = number
        settings: dict[str, Callable[[list[str]], None]] = {
            "nodes": self._read_nodes,
            "site": self._read_site,
            "absent": self._read_absent,
            "seed": self._read_seed,
            "loss": self._read_loss,
            "delay": self._read_delay,
            "end": self._read_end,
        }
        try:
            if words[0] == "at" and len(words) > 2:
                self._steps.append(_step(number, words))
            elif words[0] in settings and len(words) > 1:
                settings[words[0]](words[1:])
            else:
                raise ValueError(f"{words[0]!r} is no line of a scenario (one of {', '.join(['at', *settings])})")
        except (ValueError, InvalidInput) as error:
            message = error.message if isinstance(error, InvalidInput) else str(error)
            self._problems.append(Problem(message, self._file, number, 1))

    def scenario(self) -> Scenario:
        """Everything, once the last line is read."""
        if self._problems:
            raise InvalidInput(f"{self._file or 'the scenario'} cannot be read", problems=tuple(self._problems))
        steps = tuple(sorted(self._steps, key=lambda step: step.at_s))
        last_s = steps[-1].at_s if steps else 0.0
        return Scenario(
            machines=tuple(machine(name, site=self._sites.get(name, "")) for name in self._names),
            steps=steps,
            end_s=max(last_s, self._end_s if self._end_s is not None else last_s + DEFAULT_END_S),
            seed=self._seed,
            loss=self._loss,
            delay_s=self._delay_s,
            absent=dict(self._absent),
            file=self._file,
        )

    def _read_nodes(self, rest: list[str]) -> None:
        count = int(rest[0]) if len(rest) == 1 and rest[0].isdecimal() and len(rest[0]) < 9 else -1
        if count > NODES_MAX:
            raise ValueError(f"{count} nodes are more than {NODES_MAX}")
        names = [f"n{index}" for index in range(count)] if count >= 0 else rest
        for name in names:
            if name in self._known:
                raise ValueError(f"{name!r} is named twice")
            self._known.add(name)
        self._names += names
        if len(self._names) > NODES_MAX:
            raise ValueError(f"{len(self._names)} nodes are more than {NODES_MAX}")

    def _read_absent(self, rest: list[str]) -> None:
        self._absent.update(dict.fromkeys(rest, self._line))

    def _read_site(self, rest: list[str]) -> None:
        unknown = [name for name in rest[1:] if name not in self._known]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no node named before")
        self._sites.update(dict.fromkeys(rest[1:], rest[0]))

    def _read_seed(self, rest: list[str]) -> None:
        if not rest[0].isdecimal() or len(rest[0]) > 18:
            raise ValueError(f"{rest[0]!r} is no seed (write a whole number)")
        self._seed = int(rest[0])

    def _read_loss(self, rest: list[str]) -> None:
        self._loss = share(rest[0])

    def _read_delay(self, rest: list[str]) -> None:
        least, dots, most = rest[0].partition("..")
        self._delay_s = (seconds(least), seconds(most if dots else least))
        if self._delay_s[0] > self._delay_s[1]:
            raise ValueError(f"{rest[0]!r} runs backwards")

    def _read_end(self, rest: list[str]) -> None:
        self._end_s = seconds(rest[0])


def _step(line: int, words: list[str]) -> Step:
    at_s, action, rest = seconds(words[1]), words[2], words[3:]
    lasts_s = 0.0
    if len(rest) > 1 and rest[-2] == "for":
        lasts_s = seconds(rest[-1])
        rest = rest[:-2]
        _want(action in _LASTING, f"{action} cannot be for a while (only {', '.join(_LASTING)})")
        _want(lasts_s > 0, "for wants a time above 0")
    text = " ".join(words[2:])
    plain = [word for word in rest if "=" not in word or action not in _OPTIONS]
    options = dict(word.split("=", 1) for word in rest if word not in plain)
    unknown = options.keys() - _OPTIONS.get(action, set())
    if unknown:
        known = ", ".join(sorted(_OPTIONS[action]))
        raise ValueError(f"{action} has no option {min(unknown)!r} (one of {known})")
    step = Step(at_s, action, plain[0] if plain else "", "", lasts_s, options, text, line)
    return _checked(step, plain)


def _checked(step: Step, plain: list[str]) -> Step:
    """The step, once its words are what its action wants."""
    action = step.action
    if action in _WHO or action in ("skew", "slow", "apply", "delete"):
        _want(len(plain) == 1, f"{action} wants one word behind it: who or what, with commas between several")
    if action in ("cut", "cut-one-way"):
        _want(len(plain) in (1, 3) and plain[1:2] in ([], ["/"]), f"{action} wants A / B, or A alone against the rest")
        return replace(step, other=plain[2] if len(plain) == 3 else "")
    if action == "expect":
        return _expectation(step, plain)
    if action in ("heal", "loss"):
        _want(not plain, f"{action} is for everybody: {' '.join(plain)!r} is too much")
    match action:
        case "apply":
            _check_size(step.options)
        case "pause":
            _want(step.lasts_s > 0, "pause wants for DURATION")
        case "skew":
            seconds(step.options.get("by", "").lstrip("+-"))
        case "slow":
            by = step.options.get("by", "")
            _want(_FACTOR.fullmatch(by) is not None and float(by) > 0, "slow wants by=FACTOR above 0, such as by=5")
        case "loss":
            share(step.options.get("share", ""))
        case "drain":
            _check_switch(step.options, "force")
        case _:
            known = (*_WHO, "apply", "delete", "cut", "cut-one-way", "heal", "loss", "slow", "skew", "expect")
            _want(action in known, f"{action!r} is nothing that can happen (one of {', '.join(known)})")
    return step


def _check_size(options: Mapping[str, str]) -> None:
    """Of what an `apply` makes up."""
    replicas = options.get("replicas", "1")
    _want(replicas.isdecimal() and len(replicas) < 9, "replicas wants a whole number")
    _want(int(replicas) <= REPLICAS_MAX, f"{replicas} replicas are more than {REPLICAS_MAX}")
    for name, amount, most in (
        ("cpu", millicores(options.get("cpu", "10m")), CPU_M_MAX),
        ("memory", mebibytes(options.get("memory", "16Mi")), MEM_MB_MAX),
    ):
        _want(0 <= amount <= most, f"{name}={options.get(name)} is no amount that a replica may need")
    _check_switch(options, "once")


def _check_switch(options: Mapping[str, str], name: str) -> None:
    _want(options.get(name, "no") in ("yes", "no", "true", "false"), f"{name} wants yes or no")


def _expectation(step: Step, plain: list[str]) -> Step:
    """What may be expected: an expectation of nothing would hold whatever happens."""
    _want(bool(plain) and plain[0] in EXPECTATIONS, f"expect wants one of {', '.join(EXPECTATIONS)}")
    what, words = plain[0], plain[1:]
    match what:
        case "running" | "never-below":
            holds = bool(words) and all(_COUNTED.fullmatch(word) for word in words)
        case "alive":
            holds = len(words) == 1 and words[0].isdecimal() and len(words[0]) < 9
        case "agree" | "single":
            holds = not words
        case "never-doubled":
            holds = True
        case _:
            holds = bool(words)
    _want(holds, f"expect {what} wants {_EXPECTED.get(what, '')}")
    return replace(step, who=what, other=" ".join(words))


def _want(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
