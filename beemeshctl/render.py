"""How answers are shown: the one place that lays out tables, JSON, YAML and names."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

from beemeshctl.clock import wall_ms

OUTPUTS = ("table", "wide", "json", "yaml", "name")
GAP = "  "

KIND_NAMES = {
    "Deployment": "deployment.apps",
    "DaemonSet": "daemonset.apps",
    "Job": "job.batch",
    "PodDisruptionBudget": "poddisruptionbudget.policy",
    "PriorityClass": "priorityclass.scheduling.k8s.io",
    "Task": "task.beemesh.io",
}


def warn(text: str) -> None:
    """Tell what is not as it should be, beside what was asked for."""
    click.echo(f"warning: {text}", err=True)


def print_objects(items: Sequence[dict[str, Any]], kind: str, output: str, *, single: bool = False) -> None:
    """Print Kubernetes-shaped objects of one kind to standard output."""
    if output == "json":
        click.echo(json.dumps(_document(items, single=single), indent=2))
    elif output == "yaml":
        click.echo(_yaml(_document(items, single=single)), nl=False)
    elif output == "name":
        for item in items:
            click.echo(f"{KIND_NAMES.get(kind, kind.lower())}/{item['metadata']['name']}")
    else:
        now_ms = wall_ms()
        names, rows = kubetable_cells(kind, items, now_ms, wide=output == "wide")
        print_table(names, rows)


def kubetable_cells(
    kind: str, items: Sequence[dict[str, Any]], now_ms: int, *, wide: bool
) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a table of one kind."""
    from beemesh.workloads import kubetable  # of no use to the many commands that print no table of objects

    names, rows = kubetable.rows(kind, list(items), now_ms, wide=wide)
    return list(names), [[str(cell) for cell in row] for row in rows]


def _document(items: Sequence[dict[str, Any]], *, single: bool) -> dict[str, Any]:
    if single and len(items) == 1:
        return items[0]
    return {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": list(items)}


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; no borders, no colours, nothing after the last column."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(heads))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo(GAP.join(cells).rstrip())


def _yaml(document: dict[str, Any]) -> str:
    import io

    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


class ProgressLine:
    """What goes on, on standard error: one line that is rewritten on a terminal, else a line for each change."""

    def __init__(self, after_s: float = 1.0) -> None:
        self._from_s = time.monotonic() + after_s
        self._shown = False
        self._last = ""

    def tell(self, text: str) -> None:
        """Show `text`, once the work has taken longer than a second."""
        if time.monotonic() < self._from_s or text == self._last:
            return
        self._last = text
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K{text[:200]}", nl=False, err=True)
            self._shown = True
        else:
            click.echo(text, err=True)

    def done(self) -> None:
        """Clear the line."""
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._shown = False


def counted(count: int, noun: str) -> str:
    """`1 node`, `2 nodes`: for nouns with a regular plural."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def say_nothing(_text: str) -> None:
    """Tells nobody: where one document is printed, nothing else is."""
