"""`beemeshctl get`: what it refuses before it asks anybody."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from beemesh.errors import InvalidInput
from beemeshctl import client as client_module
from beemeshctl.commands.get import command


@pytest.mark.parametrize("words", [("pods,deployments",), ("all",), ("pods", "one", "two"), ("pod/one", "ep/web")])
def test_a_watch_is_of_one_thing(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    """Watching the first alone would read as if nothing happened to the others."""
    monkeypatch.setattr(client_module, "Client", lambda via: None)
    with pytest.raises(InvalidInput, match="watches one type"):
        CliRunner().invoke(command, [*words, "-w"], standalone_mode=False, catch_exceptions=False)
