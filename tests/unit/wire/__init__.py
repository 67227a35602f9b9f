"""Tests of what travels: datagrams, frames, messages, admission."""
