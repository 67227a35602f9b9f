"""Tests of who runs what."""
