"""Beemesh: everything that is true without I/O.

Identities, wire format, manifests, sealing and the protocols as state machines. Nothing in this package opens a
socket or a file, looks at a clock or draws a random number: whoever drives it hands those in.
"""

__version__ = "0.1.0"
