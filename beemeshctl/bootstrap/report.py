"""What a bootstrap did, host by host, and how it is told: lines, a recap as Ansible has it, or JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from beemesh.errors import ExitCode

Status = Literal["ok", "changed", "failed", "unreachable"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked at, and brought about where it was not so."""

    name: str
    changed: bool
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


@dataclass(slots=True)
class HostReport:
    """What happened to one host."""

    host: str
    node: str
    steps: list[Step] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    unreachable: bool = False

    @property
    def changed(self) -> int:
        """Steps that changed something."""
        return sum(step.changed for step in self.steps)

    @property
    def ok(self) -> int:
        """Steps that were done or found done."""
        return len(self.steps)

    @property
    def failed(self) -> bool:
        """Whether the host is not as it was asked to be."""
        return bool(self.error or self.problems)

    @property
    def status(self) -> Status:
        """The one word for it."""
        if self.unreachable:
            return "unreachable"
        if self.failed:
            return "failed"
        return "changed" if self.changed else "ok"


@dataclass(slots=True)
class Report:
    """What happened to all of them."""

    mesh: str
    check: bool
    created: bool = False
    hosts: list[HostReport] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """1 when a host failed, 4 when hosts were merely out of reach, else 0."""
        statuses = {host.status for host in self.hosts}
        if "failed" in statuses:
            return ExitCode.FAILED
        return ExitCode.UNREACHABLE if "unreachable" in statuses else ExitCode.DONE

    def to_json(self) -> dict[str, Any]:
        """The stable shape of `-o json`."""
        return {
            "kind": "BootstrapReport",
            "mesh": self.mesh,
            "check": self.check,
            "created": self.created,
            "changed": sum(host.changed for host in self.hosts),
            "hosts": [
                {
                    "name": host.host,
                    "node": host.node,
                    "status": host.status,
                    "ok": host.ok,
                    "changed": host.changed,
                    "steps": [{"name": s.name, "changed": s.changed, "detail": s.detail} for s in host.steps],
                    "problems": host.problems,
                    "warnings": host.warnings,
                    "error": host.error,
                }
                for host in self.hosts
            ],
        }

    def recap(self) -> list[str]:
        """One line per host, as Ansible's recap."""
        width = max((len(host.host) for host in self.hosts), default=0)
        lines = []
        for host in self.hosts:
            failed, unreachable = int(host.status == "failed"), int(host.unreachable)
            counts = f"ok={host.ok:<3} changed={host.changed:<3} unreachable={unreachable} failed={failed}"
            lines.append(f"{host.host:<{width}} : {counts}")
        return lines


class Progress:
    """Tells what goes on while it goes on; the default says nothing."""

    def __init__(self, say: Callable[[str, str], None] | None = None) -> None:
        """`say` gets a kind (phase, ok, changed, warning, failed, unreachable) and a line."""
        self._say = say

    def phase(self, text: str) -> None:
        """A new part of the work begins."""
        self._tell("phase", text)

    def step(self, host: HostReport, step: Step, *, check: bool) -> None:
        """A step is done; under `--check` it was only looked at."""
        host.steps.append(step)
        would = "would change" if check else "changed"
        kind = "changed" if step.changed else "ok"
        self._tell(kind, f"{would if step.changed else 'ok'}: [{host.host}] {step}")

    def warn(self, host: HostReport, text: str) -> None:
        """Something to know that stops nothing."""
        host.warnings.append(text)
        self._tell("warning", f"warning: [{host.host}] {text}")

    def problem(self, host: HostReport, text: str) -> None:
        """Something that has to be mended first."""
        host.problems.append(text)
        self._tell("failed", f"problem: [{host.host}] {text}")

    def fail(self, host: HostReport, text: str, *, unreachable: bool) -> None:
        """The host is given up for this run."""
        host.error, host.unreachable = text, unreachable
        self._tell("unreachable" if unreachable else "failed", f"{host.status}: [{host.host}] {text}")

    def _tell(self, kind: str, text: str) -> None:
        if self._say is not None:
            self._say(kind, text)
