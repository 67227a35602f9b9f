"""The forms of single values: names, paths, quantities, addresses. Each check answers with what is wrong, or ''."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable

from beemesh.workloads.quantities import AMOUNT_MAX, millicores, parse_quantity

LABEL_CHARS_MAX = 63  # RFC 1123
SUBDOMAIN_CHARS_MAX = 253  # RFC 1123
DATA_KEY_CHARS_MAX = 253  # Kubernetes
PORT_NAME_CHARS_MAX = 15  # RFC 6335
PATH_CHARS_MAX = 4096  # Linux PATH_MAX
IMAGE_CHARS_MAX = 1024
CAPABILITY_CHARS_MAX = 64
MODE_MAX = 0o777

_ENDS = "beginning and ending with a letter or digit"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_CAPABILITY = re.compile(r"[A-Za-z_]+")
_IMAGE = re.compile(
    r"(?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]+)?/|\[[0-9a-fA-F:]+\](?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*:[0-9a-fA-F]{32,})?"
)
_PERCENT = re.compile(r"[0-9]{1,3}%")


def label(text: str) -> str:
    """A DNS label: what names containers, volumes, namespaces."""
    if len(text) <= LABEL_CHARS_MAX and _LABEL.fullmatch(text):
        return ""
    return f"must be 1 to {LABEL_CHARS_MAX} lower-case letters, digits and '-', {_ENDS}"


def subdomain(text: str) -> str:
    """DNS labels with dots: what names objects."""
    if len(text) <= SUBDOMAIN_CHARS_MAX and all(_LABEL.fullmatch(part) for part in text.split(".")):
        return ""
    return (
        f"must be 1 to {SUBDOMAIN_CHARS_MAX} lower-case letters, digits, '-' and '.', each part beginning and ending"
        " with a letter or digit"
    )


def label_value(text: str) -> str:
    """The value of a label."""
    if len(text) <= LABEL_CHARS_MAX and _LABEL_VALUE.fullmatch(text):
        return ""
    return f"must be at most {LABEL_CHARS_MAX} letters, digits, '-', '_', '.', {_ENDS}"


def qualified_name(text: str) -> str:
    """The name of a label or annotation: `name` or `prefix/name`."""
    prefix, slash, name = text.rpartition("/")
    if slash and subdomain(prefix):
        return "has a prefix before '/' that is no DNS name"
    if not name or len(name) > LABEL_CHARS_MAX or not _LABEL_VALUE.fullmatch(name):
        return (
            f"must be 'name' or 'prefix/name', the name of 1 to {LABEL_CHARS_MAX} letters, digits, '-', '_', '.',"
            " beginning and ending with a letter or digit"
        )
    return ""


def data_key(text: str) -> str:
    """A key of a ConfigMap or Secret; it becomes a file name."""
    if len(text) <= DATA_KEY_CHARS_MAX and _DATA_KEY.fullmatch(text) and text not in (".", "..") and text[:2] != "..":
        return ""
    return f"must be 1 to {DATA_KEY_CHARS_MAX} letters, digits, '-', '_', '.', and not begin with '..'"


def env_name(text: str) -> str:
    """The name of an environment variable."""
    return "" if _ENV_NAME.fullmatch(text) else "must be letters, digits, '_', '-', '.', and not begin with a digit"


def port_name(text: str) -> str:
    """The name of a port (RFC 6335)."""
    fits = len(text) <= PORT_NAME_CHARS_MAX and _PORT_NAME.fullmatch(text) and "--" not in text
    if fits and any(character.isalpha() for character in text):
        return ""
    return f"must be 1 to {PORT_NAME_CHARS_MAX} lower-case letters, digits and '-', with at least one letter"


def abs_path(text: str) -> str:
    """An absolute path inside a container."""
    if not text.startswith("/") or len(text) > PATH_CHARS_MAX or "\0" in text:
        return "must be an absolute path, such as /data"
    return "must not contain '..'" if ".." in text.split("/") else ""


def rel_path(text: str) -> str:
    """A path below a volume's root."""
    if not text or text.startswith("/") or len(text) > PATH_CHARS_MAX or "\0" in text:
        return "must be a path relative to the volume, such as conf/app.ini"
    return "must not contain '..'" if any(part[:2] == ".." for part in text.split("/")) else ""


def image(text: str) -> str:
    """A container image reference."""
    if len(text) <= IMAGE_CHARS_MAX and _IMAGE.fullmatch(text):
        return ""
    lower = text.lower()
    if lower != text and _IMAGE.fullmatch(lower):
        return f"must have its repository in lower case, such as {lower!r}"
    return "must be an image reference such as registry.example/app:1.2 or app@sha256:…"


def base64_text(text: str) -> str:
    """Base64 as Kubernetes reads it (line breaks allowed)."""
    try:
        base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        return "must be base64"
    return ""


def ip_address(text: str) -> str:
    """An IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return "must be an IP address"
    return ""


def capability(text: str) -> str:
    """A Linux capability, with or without CAP_."""
    if len(text) <= CAPABILITY_CHARS_MAX and _CAPABILITY.fullmatch(text):
        return ""
    return "must be a Linux capability such as NET_BIND_SERVICE"


def quantity(value: str | int | float) -> str:
    """Any quantity."""
    try:
        found = parse_quantity(value)
    except ValueError:
        return "must be a quantity such as 500m, 0.5, 64Mi or 1G"
    return "must be at most 8Pi, which is 2^53" if abs(found) > AMOUNT_MAX else ""


def amount(value: str | int | float) -> str:
    """A quantity that is not negative."""
    return quantity(value) or ("must not be negative" if parse_quantity(value) < 0 else "")


def cpu(value: str | int | float) -> str:
    """An amount of CPU."""
    if wrong := amount(value):
        return wrong
    try:
        millicores(value)
    except ValueError:
        return f"must be at most {AMOUNT_MAX // 1000} cores"
    return ""


def mode(value: int) -> str:
    """Permission bits of a file."""
    if 0 <= value <= MODE_MAX:
        return ""
    return "must be permission bits from 0 to 0o777 (511)"


def count_or_percent(value: str | int) -> str:
    """A count of replicas or a share of them."""
    fits = value >= 0 if isinstance(value, int) else bool(_PERCENT.fullmatch(value)) and int(value[:-1]) <= 100
    return "" if fits else "must be a whole number from 0, or a percentage such as 25%"


TEXT_FORMATS: dict[str, Callable[[str], str]] = {
    "label": label,
    "subdomain": subdomain,
    "labelvalue": label_value,
    "qualifiedname": qualified_name,
    "datakey": data_key,
    "envname": env_name,
    "portname": port_name,
    "abspath": abs_path,
    "relpath": rel_path,
    "image": image,
    "base64": base64_text,
    "ip": ip_address,
    "capability": capability,
}
"""Formats of texts, by their names in the field tables."""
