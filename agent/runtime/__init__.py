"""Container runtimes: one contract (`contract`) and the engines that keep it (`podman`, `process`, `mock`)."""
