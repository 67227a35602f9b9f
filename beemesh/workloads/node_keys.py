"""The keys under which selectors and topologies see a node: Kubernetes' well-known labels, and ours beside them."""

from __future__ import annotations

LABEL_HOSTNAME = "kubernetes.io/hostname"
LABEL_ZONE = "topology.kubernetes.io/zone"
LABEL_REGION = "topology.kubernetes.io/region"
LABEL_SITE = "beemesh.io/site"
LABEL_ORG = "beemesh.io/org"

FIELD_NAME = "metadata.name"
"""The one field of a node that `matchFields` knows."""
