"""Opens the connection that an inventory asks for."""

from __future__ import annotations

from beemeshctl.inventory.desired import ConnectionSettings
from beemeshctl.ssh.connection import Connection
from beemeshctl.ssh.host_keys import HostKeys


async def open_connection(settings: ConnectionSettings, keys: HostKeys, *, connect_timeout_s: float) -> Connection:
    """An open connection of the wanted kind; the caller closes it.

    Raises `Unreachable`, `NotAllowed` or `Untrusted`, each with what to do about it.
    """
    if settings.kind == "local":
        from beemeshctl.ssh.local import LocalConnection

        local = LocalConnection(become=settings.become, become_password=settings.become_password)
        await local.open()
        return local
    from beemeshctl.ssh.over_ssh import SshConnection

    remote = SshConnection(settings, keys, connect_timeout_s=connect_timeout_s)
    await remote.open()
    return remote
