"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from beemesh.errors import InvalidInput
from beemeshctl.render import OUTPUTS

F = TypeVar("F", bound=Callable[..., Any])

via_option = click.option("--via", default="", metavar="NODE", help="Ask this node's agent, and no other.")
namespace_option = click.option("-n", "--namespace", default="default", show_default=True, help="The namespace.")
all_namespaces_option = click.option("-A", "--all-namespaces", is_flag=True, help="Every namespace.")
output_option = click.option(
    "-o", "--output", type=click.Choice(OUTPUTS), default="table", show_default=True, help="How to print."
)
timeout_option = click.option(
    "--timeout", default="5m", show_default=True, metavar="DURATION", help="Such as 90s, 5m or 1h."
)

TYPES = {
    "nodes": ("Node", "/api/v1", False, ("node", "no")),
    "pods": ("Pod", "/api/v1", True, ("pod", "po")),
    "deployments": (
        "Deployment",
        "/apis/apps/v1",
        True,
        ("deployment", "deploy", "deployment.apps", "deployments.apps"),
    ),
    "daemonsets": ("DaemonSet", "/apis/apps/v1", True, ("daemonset", "ds", "daemonset.apps", "daemonsets.apps")),
    "jobs": ("Job", "/apis/batch/v1", True, ("job", "job.batch", "jobs.batch")),
    "endpoints": ("Endpoints", "/api/v1", True, ("endpoint", "ep")),
    "configmaps": ("ConfigMap", "/api/v1", True, ("configmap", "cm")),
    "secrets": ("Secret", "/api/v1", True, ("secret",)),
    "poddisruptionbudgets": ("PodDisruptionBudget", "/apis/policy/v1", True, ("poddisruptionbudget", "pdb")),
    "resourcequotas": ("ResourceQuota", "/api/v1", True, ("resourcequota", "quota", "quotas")),
    "priorityclasses": ("PriorityClass", "/apis/scheduling.k8s.io/v1", False, ("priorityclass", "pc")),
    "events": ("Event", "/api/v1", True, ("event", "ev")),
    "tasks": ("Task", "/apis/beemesh.io/v1alpha1", True, ("task",)),
}
"""Plural → kind, API prefix, whether it has namespaces, other names that people type."""

_DURATION = re.compile(r"^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?$")


def duration_s(text: str) -> float:
    """Seconds of `90`, `90s`, `5m`, `1h30m`; raises `InvalidInput` for anything else."""
    match = _DURATION.match(text)
    if not text or match is None or not any(match.groups()):
        raise InvalidInput(f"{text!r} is no duration", hint="write 90s, 5m or 1h")
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds or 0)


def plural_of(text: str) -> str:
    """The plural of a type as people write it; raises `InvalidInput` with a guess."""
    lower = text.lower()
    for plural, (_, _, _, others) in TYPES.items():
        if lower == plural or lower in others:
            return plural
    import difflib

    known = [*TYPES, *(other for entry in TYPES.values() for other in entry[3])]
    close = difflib.get_close_matches(lower, known, n=1)
    raise InvalidInput(
        f"there is no type {text!r}", hint=f"did you mean {close[0]}?" if close else f"known: {', '.join(TYPES)}"
    )


def path_of(plural: str, namespace: str, name: str = "") -> str:
    """The API path of a list or of one object; an empty namespace means all."""
    _, prefix, namespaced, _ = TYPES[plural]
    middle = f"/namespaces/{namespace}" if namespaced and namespace and plural != "tasks" else ""
    return f"{prefix}{middle}/{plural}" + (f"/{name}" if name else "")


def type_and_names(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """(plural, name) pairs from `pods web-0 web-1` or `pod/web-0 deployment/web`; an empty name means all."""
    if not words:
        raise InvalidInput("which type?", hint=f"one of {', '.join(TYPES)}")
    if "/" in words[0]:
        pairs = []
        for word in words:
            kind, slash, name = word.partition("/")
            if not slash or not name:
                raise InvalidInput(f"{word!r} is no TYPE/NAME", hint="write all of them as TYPE/NAME")
            pairs.append((plural_of(kind), name))
        return pairs
    plurals = [plural_of(part) for part in words[0].split(",")]
    return [(plural, name) for plural in plurals for name in (words[1:] or ("",))]
