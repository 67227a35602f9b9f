"""Fixtures of the tests that need whole machines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machines.harness import Machines


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """Three fresh machines for the tests of one module, up and answering; gone after its last test."""
    with Machines(3) as up:
        yield up
