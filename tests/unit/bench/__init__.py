"""Tests of what the benchmarks say of themselves."""
