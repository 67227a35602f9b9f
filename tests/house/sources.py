"""The project's own source files, parsed once, for the tests of the house rules."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
PRODUCT = ("beemesh", "agent", "beemeshctl", "simulator", "playbooks", "schemas")
"""The folders that are shipped."""
AROUND = ("tests", "bench", "examples", "docs", "scripts", "tools")
"""The folders that are not."""
FOREIGN = {".venv", ".git", ".demo", ".cache", "__pycache__", "node_modules", "dist", "build"}
"""Folders whose files are not ours."""


@cache
def files(*folders: str, suffix: str = ".py") -> tuple[Path, ...]:
    """Every file below these folders of the checkout with this suffix, in order."""
    found = (file for folder in folders for file in (ROOT / folder).rglob(f"*{suffix}"))
    return tuple(sorted(file for file in found if file.is_file() and not FOREIGN & set(file.parts)))


@cache
def tree(file: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def name(file: Path) -> str:
    """A file as people name it: relative to the checkout."""
    return str(file.relative_to(ROOT))


def module_name(file: Path) -> str:
    """The dotted name under which a file is imported."""
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(node: ast.AST, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Every imported name below `node` as (line, dotted name), relative imports resolved.

    `from a.b import c` yields `a.b.c`: the caller knows whether that is a module or something inside one.
    """
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                package = package[: len(package) - child.level + 1]
                base = ".".join([*package, *([child.module] if child.module else [])])
            yield from ((child.lineno, f"{base}.{alias.name}") for alias in child.names)


def functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method below `node`."""
    for child in ast.walk(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child


@cache
def project() -> dict[str, object]:
    """`pyproject.toml`."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())
