"""Free ports of the host: found by trying to bind them, and kept apart while pods are being started."""

from __future__ import annotations

import errno
import socket
import zlib

from agent.runtime.contract import FailureReason, RuntimeFailure

DEFAULT_PORT_RANGE = (20000, 32000)  # below Linux' ephemeral ports (32768), above what services commonly use
KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}


class PortPicker:
    """Chooses host ports. Ports given out stay reserved in this process until `release`.

    Another process may take a chosen port before the pod binds it; the engine then fails with `PortInUse` and tries
    again with another one, so no lock has to be held while a pod starts.
    """

    def __init__(self, port_range: tuple[int, int] = DEFAULT_PORT_RANGE) -> None:
        """Choose from `port_range`, first included, last excluded."""
        self._first, self._end = port_range
        self._reserved: set[tuple[str, int]] = set()
        self._step = 0

    def take(self, wanted: int, protocol: str, seed: str) -> int:
        """A port that is free at this moment: `wanted`, or any of the range if that is 0. Fails with `PortInUse`."""
        if wanted:
            if (protocol, wanted) in self._reserved or not is_free(wanted, protocol):
                raise RuntimeFailure(
                    FailureReason.PORT_IN_USE,
                    f"port {wanted}/{protocol} of this host is taken",
                    hint=f"see by whom with: ss -lnp | grep :{wanted}; or ask for any free one with "
                    "the annotation beemesh.io/publish: auto",
                )
            self._reserved.add((protocol, wanted))
            return wanted
        count = self._end - self._first
        start = zlib.crc32(seed.encode()) + self._step
        self._step += 1
        for offset in range(count):
            port = self._first + (start + offset) % count
            if (protocol, port) not in self._reserved and is_free(port, protocol):
                self._reserved.add((protocol, port))
                return port
        raise RuntimeFailure(
            FailureReason.PORT_IN_USE,
            f"no port from {self._first} to {self._end - 1} of this host is free for {protocol}",
            hint="widen the range of ports in node.yaml, or remove pods",
        )

    def release(self, protocol: str, port: int) -> None:
        """The port is bound by its pod now, or was not needed."""
        self._reserved.discard((protocol, port))


def is_free(port: int, protocol: str = "TCP") -> bool:
    """Whether a server could bind this port on all addresses of the host right now."""
    with socket.socket(socket.AF_INET, KINDS.get(protocol, socket.SOCK_STREAM)) as probe:
        if protocol == "TCP":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - what a published port would take
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True
