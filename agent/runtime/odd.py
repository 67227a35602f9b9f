"""What reading JSON of an unknown shape may raise: engines and other agents' files are read with this in mind."""

from __future__ import annotations

ODD_SHAPE = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
