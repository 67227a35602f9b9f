"""Jinja2 in variables, in a sandbox: `{{ inventory_hostname }}`, `{{ other_variable | default(1) }}` and their like."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

MAX_DEPTH = 20
"""Templates that may refer to templates: more is a circle."""

MAX_RENDERED_CHARACTERS = 1_000_000
"""Longest text a template may make."""

_SOLE_EXPRESSION = re.compile(r"^\s*\{\{((?:(?!\}\}|\{\{).)*)\}\}\s*$", re.DOTALL)


def is_template(value: object) -> bool:
    """Whether a value is text that holds a Jinja2 expression or statement."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def holds_template(value: object) -> bool:
    """Whether a value holds a template anywhere inside."""
    if isinstance(value, dict):
        return any(holds_template(item) for item in value.values())
    if isinstance(value, list):
        return any(holds_template(item) for item in value)
    return is_template(value)


class TemplateFailed(Exception):
    """A template that cannot be rendered; the text says why, in lower case."""


class Renderer:
    """Renders one host's variables; a variable may refer to any other of the same host."""

    def __init__(self, variables: Mapping[str, Any], magic: Mapping[str, Any]) -> None:
        """`magic` are names such as `inventory_hostname`; they win over variables, as in Ansible."""
        self._raw = {**variables, **magic}
        self._done: dict[str, Any] = {}
        self._active: list[str] = []
        self._environment = _environment()

    def variable(self, name: str) -> Any:
        """The value of a variable with every template in it rendered; raises `TemplateFailed`."""
        if name in self._done:
            return self._done[name]
        if name in self._active or len(self._active) > MAX_DEPTH:
            raise TemplateFailed(f"{' → '.join([*self._active, name])} refers to itself")
        self._active.append(name)
        try:
            self._done[name] = self.render(self._raw[name])
        finally:
            self._active.pop()
        return self._done[name]

    def render(self, value: Any) -> Any:
        """A value with every template in it rendered. A lone `{{ expression }}` keeps the type of its result."""
        if isinstance(value, dict):
            return {key: self.render(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.render(item) for item in value]
        return self._text(value) if is_template(value) else value

    def _text(self, text: str) -> Any:
        from jinja2 import TemplateError, UndefinedError, meta
        from jinja2.runtime import Undefined

        try:
            wanted = meta.find_undeclared_variables(self._environment.parse(text))
            scope = {name: self.variable(name) for name in sorted(wanted) if name in self._raw}
            sole = _SOLE_EXPRESSION.match(text)
            if sole:
                result = self._environment.compile_expression(sole[1], undefined_to_none=False)(scope)
                if isinstance(result, Undefined):
                    str(result)
                return result
            rendered = self._environment.from_string(text).render(scope)
        except UndefinedError as error:
            raise TemplateFailed(str(error.message)) from None
        except TemplateError as error:
            raise TemplateFailed(f"{text!r} is not a template that can be rendered: {error}") from None
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise TemplateFailed(f"{text!r} cannot be worked out: {error}") from None
        if len(rendered) > MAX_RENDERED_CHARACTERS:
            raise TemplateFailed(f"{text[:40]!r}… makes more than {MAX_RENDERED_CHARACTERS} characters")
        return rendered


def lookup(plugin: str, name: str) -> str:
    """Ansible's `lookup` for the two plugins that an inventory needs: `env` (empty when not set) and `file` (a path,
    without the newline at its end)."""
    if plugin == "env":
        return os.environ.get(name, "")
    if plugin == "file":
        try:
            with Path(name).open(encoding="utf-8") as file:
                return file.read(MAX_RENDERED_CHARACTERS).rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"lookup of file {name}: {error}") from None
    raise ValueError(f"lookup {plugin!r} is not known; env and file are")


def _environment() -> SandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    environment.globals["lookup"] = lookup
    return environment
