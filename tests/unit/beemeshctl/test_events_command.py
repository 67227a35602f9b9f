"""`beemeshctl events`: what is shown of what happened, once, and as it happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from beemesh.errors import InvalidInput
from beemeshctl import client as client_module
from beemeshctl.commands.events import command


def event(number: int, *, kind: str = "Normal", target: str = "Deployment/web", pod: str = "") -> dict[str, Any]:
    """One event as the API shapes it; a greater number happened later."""
    of, _, name = target.partition("/")
    return {
        "metadata": {"name": f"01jc{number:022}", "namespace": "default"},
        "type": kind,
        "action": "Deployed",
        "message": f"number {number}",
        "source": {"host": "n1"},
        "involvedObject": {"kind": of, "name": name},
        "lastTimestamp": "2026-01-01T00:00:00Z",
        "details": {"pod": pod} if pod else {},
    }


class Client:
    """An agent that has these events, and then others."""

    has: list[dict[str, Any]] = []  # noqa: RUF012 - set by each test
    comes: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(self, **_: Any) -> None:
        pass

    def get(self, _path: str, **_query: Any) -> dict[str, Any]:
        """The list."""
        return {"items": self.has}

    def watch(self, _path: str, **_query: Any) -> Iterator[dict[str, Any]]:
        """What a watch tells: first all that there is, then the rest."""
        for item in (*self.has, *self.comes):
            yield {"type": "ADDED", "object": item}


def shown(
    monkeypatch: pytest.MonkeyPatch, *words: str, has: list[dict[str, Any]], comes: list[dict[str, Any]] | None = None
) -> list[int]:
    """The numbers of the events that a command prints."""
    monkeypatch.setattr(Client, "has", has)
    monkeypatch.setattr(Client, "comes", comes or [])
    monkeypatch.setattr(client_module, "Client", Client)
    result = CliRunner().invoke(command, [*words, "-o", "json"], standalone_mode=False, catch_exceptions=False)
    if "-w" not in words:
        items = json.loads(result.stdout)["items"]
    else:
        items = [json.loads(line) for line in result.stdout.splitlines()]
    return [int(item["message"].split()[1]) for item in items]


def test_a_watch_shows_the_newest_and_then_what_comes_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is cut to its newest; what was left out does not come back with the watch, and nothing comes twice."""
    has = [event(number) for number in range(5)]
    assert shown(monkeypatch, "-w", "--limit", "2", has=has, comes=[event(5), event(6)]) == [3, 4, 5, 6]


def test_events_are_chosen_by_target_and_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--for` takes a workload, or a pod by what an event says of it; `--types` takes warnings alone."""
    has = [
        event(0),
        event(1, target="Deployment/other"),
        event(2, kind="Warning", pod="web-1-0"),
        event(3, target="Pod/lone"),
    ]
    assert shown(monkeypatch, "--for", "deploy/web", has=has) == [0, 2]
    assert shown(monkeypatch, "--for", "pod/web-1-0", has=has) == [2]
    assert shown(monkeypatch, "--for", "pod/lone", has=has) == [3]
    assert shown(monkeypatch, "--types", "warning", has=has) == [2]


@pytest.mark.parametrize("words", [("--for", "web"), ("--for", "deployment/"), ("--types", "Bad")])
def test_what_makes_no_choice_is_refused(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    """A target without a kind or a name, and a type that does not exist, are errors that say what to write."""
    with pytest.raises(InvalidInput) as caught:
        shown(monkeypatch, *words, has=[])
    assert caught.value.hint
