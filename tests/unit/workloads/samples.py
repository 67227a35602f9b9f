"""Small manifests that tests start from and change."""

from __future__ import annotations

from typing import Any


def container(**fields: Any) -> dict[str, Any]:
    """A container that is right as it stands."""
    return {"name": "web", "image": "localhost/hello:1", **fields}


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A Pod with the given containers (or one) and further fields of its spec."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one"},
        "spec": {"containers": list(containers) or [container()], **spec},
    }


def deployment(*containers: dict[str, Any], template: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A Deployment with the given containers (or one) and further fields of its spec."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "hello"},
        "spec": {
            "selector": {"matchLabels": {"app": "hello"}},
            "template": {
                "metadata": {"labels": {"app": "hello"}},
                "spec": {"containers": list(containers) or [container()], **(template or {})},
            },
            **spec,
        },
    }


def config_map(name: str = "settings", **data: str) -> dict[str, Any]:
    """A ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def secret(name: str = "password", **data: str) -> dict[str, Any]:
    """A Secret with readable data."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
