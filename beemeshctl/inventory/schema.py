"""The JSON Schema of an inventory, made from the table of variables, and what a violation means to a person."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from beemesh.errors import Problem
from beemeshctl.inventory.positions import Document, YamlPath
from beemeshctl.inventory.templating import is_template
from beemeshctl.inventory.variables import Schema, Variable, table

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

_REFUSED_PREFIXES = (
    "ansible_ssh_",
    "ansible_become_",
    "ansible_paramiko_",
    "ansible_scp_",
    "ansible_sftp_",
    "ansible_su",
    "ansible_sudo",
)
"""Unknown variables with these beginnings would change how a host is reached; ignoring one would be a trap."""


def inventory_schema() -> Schema:
    """The whole schema, as kept in `schemas/inventory.schema.json` for editors."""
    variables = {row.name: _with_documentation(row) for row in table().values()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Beemesh inventory (Ansible YAML)",
        "description": "Groups and hosts as Ansible has them; what Beemesh reads is prefixed beemesh_.",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"$ref": "#/$defs/group"},
        "$defs": {
            "template": {"type": "string", "pattern": r"\{\{|\{%"},
            "group": {
                "type": ["object", "null"],
                "properties": {
                    "hosts": {"type": ["object", "null"], "additionalProperties": {"$ref": "#/$defs/vars"}},
                    "children": {"type": ["object", "null"], "additionalProperties": {"$ref": "#/$defs/group"}},
                    "vars": {"$ref": "#/$defs/vars"},
                },
                "additionalProperties": False,
            },
            "vars": {
                "type": ["object", "null"],
                "properties": variables,
                "propertyNames": {
                    "if": {"pattern": "^beemesh_"},
                    "then": {"enum": sorted(name for name in table() if name.startswith("beemesh_"))},
                },
            },
        },
    }


def check_inventory(document: Document) -> Iterator[Problem]:
    """What is wrong with a parsed inventory file."""
    yield from _problems(document, _validator(""))
    if isinstance(document.data, dict):
        for name, group in document.data.items():
            yield from _untrusted_names(document, (name,), group)


def check_variables(document: Document) -> Iterator[Problem]:
    """What is wrong with a file of `group_vars/` or `host_vars/`."""
    yield from _problems(document, _validator("vars"))
    yield from _unknown_in(document, (), document.data)


def check_value(row: Variable, value: Any) -> Iterator[tuple[YamlPath, str]]:
    """What is wrong with a variable's rendered value, as (path inside it, message)."""
    for error in _value_validator(row.name).iter_errors(value):
        path = _path(error)
        yield path, _explain(error, (row.name, *path), value)[0]


def _untrusted_names(document: Document, path: YamlPath, group: Any) -> Iterator[Problem]:
    """Unknown connection variables anywhere below a group, whatever else is wrong with it."""
    if not isinstance(group, dict):
        return
    yield from _unknown_in(document, (*path, "vars"), group.get("vars"))
    hosts, children = group.get("hosts"), group.get("children")
    for name, variables in hosts.items() if isinstance(hosts, dict) else ():
        yield from _unknown_in(document, (*path, "hosts", name), variables)
    for name, child in children.items() if isinstance(children, dict) else ():
        yield from _untrusted_names(document, (*path, "children", name), child)


def _unknown_in(document: Document, path: YamlPath, variables: Any) -> Iterator[Problem]:
    for name in variables if isinstance(variables, dict) else ():
        message = unknown_ansible_variable(name)
        if message:
            yield document.problem((*path, name), message, key=True)


def unknown_ansible_variable(name: str) -> str | None:
    """Why an `ansible_*` variable that is not in the table must not be ignored, or None when it may."""
    known = [item for item in table() if item.startswith("ansible_")]
    if name in known or not name.startswith("ansible_"):
        return None
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
    if close:
        return f"{name}: unknown variable; did you mean {close[0]}?"
    if name.startswith(_REFUSED_PREFIXES):
        return f"{name}: not supported, and it would change how the host is reached; supported are {', '.join(known)}"
    return None


def _with_documentation(row: Variable) -> Schema:
    documented: Schema = {"description": row.description}
    if row.default is not None:
        documented["default"] = row.default
    return {**documented, **_or_template(row.schema)}


def _or_template(schema: Schema) -> Schema:
    """The same, with a template allowed in place of any value; what it renders to is checked later."""
    inner = dict(schema)
    for key in ("items", "additionalProperties"):
        if isinstance(inner.get(key), dict):
            inner[key] = _or_template(inner[key])
    if "properties" in inner:
        inner["properties"] = {name: _or_template(value) for name, value in inner["properties"].items()}
    return {"anyOf": [inner, {"$ref": "#/$defs/template"}]}


@cache
def _validator(part: str) -> Validator:
    from jsonschema import Draft202012Validator

    schema = inventory_schema()
    if part:
        schema = {"$schema": schema["$schema"], "$defs": schema["$defs"], "$ref": f"#/$defs/{part}"}
    return Draft202012Validator(schema)


@cache
def _value_validator(name: str) -> Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(table()[name].schema)


def _problems(document: Document, validator: Validator) -> Iterator[Problem]:
    data = document.data if document.data is not None else {}
    seen: set[tuple[YamlPath, str]] = set()
    for error in sorted(validator.iter_errors(data), key=lambda item: [str(step) for step in item.absolute_path]):
        for leaf in _leaves(error):
            if is_template(leaf.instance):
                continue
            path = _path(leaf)
            message, hint = _explain(leaf, path, data)
            at_key = "propertyNames" in leaf.absolute_schema_path
            spot = (*path, str(leaf.instance)) if at_key else _extra_key(leaf, path)
            if (spot, message) not in seen:
                seen.add((spot, message))
                yield document.problem(spot, message, hint=hint, key=at_key or spot != path)


def _leaves(error: ValidationError) -> Iterator[ValidationError]:
    """Of `value or template`, only what is wrong with the value; of a list of extra keys, the whole."""
    if error.validator == "anyOf" and error.context:
        for inner in error.context:
            if inner.schema_path and inner.schema_path[0] == 0:
                yield from _leaves(inner)
        return
    yield error


def _extra_key(error: ValidationError, path: YamlPath) -> YamlPath:
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        extra = _extras(error)
        return (*path, extra[0]) if extra else path
    return path


def _extras(error: ValidationError) -> list[str]:
    schema: Any = error.schema
    instance: Any = error.instance
    return [key for key in instance if key not in schema.get("properties", {})]


def _missing(wanted: Any, value: Any) -> str:
    return ", ".join(key for key in wanted if key not in value) if isinstance(wanted, list) else ""


def _path(error: ValidationError) -> YamlPath:
    return tuple(step if isinstance(step, int) else str(step) for step in error.absolute_path)


def _name(path: YamlPath) -> str:
    """The value as people call it: `beemesh_taints[0]`, `beemesh_reserve.mem_mb`, or the last key."""
    rows = table()
    start = next((index for index in reversed(range(len(path))) if path[index] in rows), len(path) - 1)
    text = ""
    for step in path[max(start, 0) :]:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text or "the file"


def _explain(error: ValidationError, path: YamlPath, data: Any) -> tuple[str, str]:
    """(message, hint) for one violation; the path's last step names the value."""
    name = _name(path)
    kind, value = error.validator, error.instance
    wanted: Any = error.validator_value
    schema: Any = error.schema
    if "propertyNames" in error.absolute_schema_path:
        return f"{value}: unknown variable", _did_you_mean(str(value), list(table()))
    if kind == "additionalProperties":
        known = list(schema.get("properties", {}))
        extra = _extras(error)
        return f"{', '.join(extra)}: unknown key in {name}", _did_you_mean(extra[0], known)
    shown = "the value" if _is_secret(path) else _shown(value)
    if kind == "type":
        kinds = [wanted] if isinstance(wanted, str) else [item for item in wanted if item != "null"]
        return f"{name}: {shown} is not {_KINDS.get(kinds[0], kinds[0])}", _documentation(path)
    messages = {
        "minimum": f"{name}: {shown} is below {wanted}",
        "exclusiveMinimum": f"{name}: {shown} must be above {wanted}",
        "maximum": f"{name}: {shown} is above {wanted}",
        "pattern": f"{name}: {shown} does not have the right form",
        "enum": f"{name}: {shown} is none of {', '.join(map(str, wanted)) if isinstance(wanted, list) else wanted}",
        "const": f"{name}: {shown} is not supported, only {wanted}",
        "required": f"{name}: {_missing(wanted, value)} is missing",
        "minLength": f"{name}: must not be empty",
        "maxLength": f"{name}: longer than {wanted} characters",
        "maxItems": f"{name}: more than {wanted} entries",
        "maxProperties": f"{name}: more than {wanted} entries",
        "minProperties": f"{name}: empty; expected a group such as all",
    }
    return messages.get(str(kind), f"{name}: {error.message}"), _documentation(path)


_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "object": "a mapping",
    "array": "a list",
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _is_secret(path: YamlPath) -> bool:
    rows = table()
    return any(step in rows and rows[str(step)].secret for step in path)


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known[:20])}" if len(known) <= 20 else ""


def _documentation(path: YamlPath) -> str:
    """The words of the nearest variable on the path."""
    rows = table()
    for step in reversed(path):
        if step in rows:
            return rows[str(step)].description
    return ""
