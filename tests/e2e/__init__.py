"""End to end: real podman, real SSH, the demo as a newcomer runs it."""
