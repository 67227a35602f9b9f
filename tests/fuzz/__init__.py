"""Fuzzing of everything that reads bytes from outside (see `target.py` for the promise, `python -m tests.fuzz -h`)."""
