"""The numbers of failure detection, in seconds; the defaults are memberlist's LAN profile."""

from __future__ import annotations

from dataclasses import dataclass

from beemesh.settings.model import Membership as MembershipSection


@dataclass(frozen=True, slots=True)
class SwimSettings:
    """See `beemesh.settings.model.Membership` for what each value trades; the rest is fixed here."""

    probe_interval_s: float = 1.0
    probe_timeout_s: float = 0.5
    indirect_probes: int = 3
    gossip_interval_s: float = 0.2
    gossip_fanout: int = 3
    push_pull_interval_s: float = 30.0
    """Whole states are compared with one random member so often (stretched by the logarithm of large meshes)."""
    announce_interval_s: float = 5.0
    """So often one absent member is pinged, so that a healed partition is noticed from both sides."""
    announce_early_interval_s: float = 1.0
    """The same in the first half minute after the start."""

    @classmethod
    def of(cls, section: MembershipSection) -> SwimSettings:
        """The settings that `node.yaml` asks for."""
        return cls(
            probe_interval_s=section.probe_interval_ms / 1000,
            probe_timeout_s=section.probe_timeout_ms / 1000,
            indirect_probes=section.indirect_probes,
            gossip_interval_s=section.gossip_interval_ms / 1000,
            gossip_fanout=section.gossip_fanout,
        )


@dataclass(frozen=True, slots=True)
class SelfFacts:
    """What a node says of itself that does not change while it runs."""

    engine: str = ""
    agent_version: str = ""
    api_port: int = 0
