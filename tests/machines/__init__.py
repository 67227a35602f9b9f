"""Test machines: whole Linux machines (systemd, sshd, nested podman) as podman containers, built from apt packages.

`Machines(count)` brings machines up, runs commands over SSH with verified host keys, cuts them off from each other,
powers them off and on, and takes away exactly what it made. By hand: `python -m tests.machines --help`.
"""
