"""The commands, one module each; every module offers `command`, a click command or group.

`COMMANDS` is the one list of them. A module is imported only when its command is called, so that `--help` stays quick.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """Where a command lives, and its line in `beemeshctl --help`."""

    module: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "apply": Entry("beemeshctl.commands.apply", "Seal manifests and run them on the mesh."),
    "bootstrap": Entry("beemeshctl.commands.bootstrap", "Install agents on an inventory's hosts and form the mesh."),
    "delete": Entry("beemeshctl.commands.delete", "Withdraw workloads and stop their pods."),
    "describe": Entry("beemeshctl.commands.describe", "Show one object in detail, with its recent events."),
    "doctor": Entry("beemeshctl.commands.doctor", "Check every node and say how to mend what is wrong."),
    "events": Entry("beemeshctl.commands.events", "List what happened, or watch it happen."),
    "explain": Entry("beemeshctl.commands.explain", "Say why a task runs where it runs, or why it does not."),
    "get": Entry("beemeshctl.commands.get", "List nodes, pods, deployments and every other type."),
    "logs": Entry("beemeshctl.commands.logs", "Print the output of a pod."),
    "mesh": Entry("beemeshctl.commands.mesh", "Show how nodes see each other; change keys; revoke."),
    "node": Entry("beemeshctl.commands.node", "Cordon, drain or remove nodes."),
    "rebalance": Entry("beemeshctl.commands.rebalance", "Move replicas from the fullest nodes to the emptiest."),
    "reconcile": Entry("beemeshctl.commands.reconcile", "Keep the mesh as a directory of manifests says."),
    "rollout": Entry("beemeshctl.commands.rollout", "Watch, pause, repeat and take back what is rolled out."),
    "scale": Entry("beemeshctl.commands.scale", "Want another number of replicas."),
    "simulate": Entry("beemeshctl.commands.simulate", "Say what would happen to a mesh, by simulating it."),
    "version": Entry("beemeshctl.commands.version", "Print the version of this program, and of the agents."),
}
