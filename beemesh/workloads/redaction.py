"""Keeps sealed words out of what an engine says: its messages become signed events that every member reads.

Members may see names, labels, images and requirements; commands, arguments, paths, variables and files are sealed. An
engine quotes them freely (`exec: "…": not found`), so what it says about a pod is read against the pod's own template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from beemesh.workloads.podspec import Template

HIDDEN = "***"

WORD_CHARS_MIN = 4
"""Shorter words occur in any sentence, and tell too little to matter."""

PUBLIC_FIELDS = frozenset({"image", "imagePullPolicy", "name", "protocol", "restartPolicy", "dnsPolicy", "type"})
"""Fields of a pod whose values the record shows anyway, or that are one of a few fixed words."""

ENGINE_WORDS = frozenset(
    {"container", "containers", "denied", "directory", "error", "exec", "executable", "failed", "file", "found"}
    | {"image", "memory", "mount", "network", "path", "permission", "port", "process", "start", "starting", "store"}
    | {"such", "taken", "this", "timeout", "with", "within"}
)
"""What engines say themselves; without these a message would be stars."""

_TOKEN = re.compile(rf"[^\s\"'`,;:=(){{}}\[\]<>|&$]{{{WORD_CHARS_MIN},}}")


def redact(text: str, template: Template) -> str:
    """`text` with every word hidden that only the template's sealed parts could have told."""
    public = {word for value in _public(template) for word in _words(value)}
    words = {word for value in _sealed(template) for word in _words(value) if word in text}
    for word in sorted(words - public - ENGINE_WORDS, key=len, reverse=True):
        text = text.replace(word, HIDDEN)
    return text


def _words(value: str) -> Iterator[str]:
    """A value whole, line by line and word by word: an engine may quote any of these."""
    for line in value.splitlines():
        if len(line) >= WORD_CHARS_MIN:
            yield line
    yield from _TOKEN.findall(value)


def _sealed(template: Template) -> Iterator[str]:
    yield from _leaves(template.spec, sealed=True)
    for group in (template.config_maps, template.secrets):
        for content in group.values():
            for value in content.values():
                yield value.decode("utf-8", "ignore")


def _public(template: Template) -> Iterator[str]:
    yield from (template.name, template.namespace, *_leaves(template.spec, sealed=False))


def _leaves(value: Any, *, sealed: bool, field: str = "") -> Iterator[str]:
    """The texts in the sealed fields, or those in the others."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, sealed=sealed, field=key)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, sealed=sealed, field=field)
    elif isinstance(value, str) and (field not in PUBLIC_FIELDS) == sealed:
        yield value
