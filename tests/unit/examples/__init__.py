"""Tests of what `examples/` brings along."""
