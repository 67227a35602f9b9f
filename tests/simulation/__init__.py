"""Long runs of the simulator: part of `make test`, not of `make check`."""
