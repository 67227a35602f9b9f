"""What is remembered of a container's restarts over an agent's own restart."""

from __future__ import annotations

from pathlib import Path

from agent.runtime.restarts import RestartBook


def test_counts_and_pauses_outlive_the_agent(tmp_path: Path) -> None:
    """A second book on the same folder knows the count, the last exit and the pause; a damaged sheet is a clean one."""
    book = RestartBook(tmp_path / "restarts")
    book.ended("c")
    assert book.is_due("c")
    book.restarted("c", 7)
    (tmp_path / "restarts" / "d").write_bytes(b"\xff{")
    later = RestartBook(tmp_path / "restarts")
    later.read()
    assert (later.sheet("c").restarts, later.sheet("c").exit_code, later.sheet("d").restarts) == (1, 7, 0)
    later.ended("c")
    assert later.is_resting("c")
    assert not later.is_due("c")


def test_only_ended_containers_are_due(tmp_path: Path) -> None:
    """A container that runs, or that is gone, is neither due nor counted for the next start."""
    book = RestartBook(tmp_path / "restarts")
    book.ended("c")
    book.ended("d")
    book.restarted("d", 1)
    book.runs("c")
    assert not book.is_due("c")
    assert book.next_s() is None
    book.keep(frozenset())
    assert book.sheet("d").restarts == 0
    assert not (tmp_path / "restarts" / "d").exists()
