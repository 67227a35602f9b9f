"""Draws `docs/run.svg` from what the commands really print: `make demo`, then `python scripts/picture.py`.

It types each command at the mesh in `.demo/` (or `$BEEMESH_HOME`), takes the output as it comes, and sets it as text.
"""

from __future__ import annotations

import html
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "run.svg"
COMMANDS = (
    "beemeshctl get nodes",
    "beemeshctl apply examples/hello.yaml --wait",
    "beemeshctl get pods -o wide",
    "beemeshctl explain deployment/hello",
)
LINES_PER_COMMAND_MAX = 12
COLUMNS_MAX = 96
CHARACTER_WIDTH, LINE_HEIGHT, MARGIN = 8.0, 18, 18
STYLE = (
    "text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#d8dee9;white-space:pre}"
    ".prompt{fill:#ebcb8b;font-weight:bold}.head{fill:#81a1c1}"
)


def main() -> int:
    """Run the commands and write the picture."""
    home = os.environ.get("BEEMESH_HOME", str(ROOT / ".demo"))
    if not (Path(home) / "context.yaml").exists():
        print("no mesh to draw: run `make demo` first", file=sys.stderr)
        return 1
    lines: list[tuple[str, str]] = []
    for command in COMMANDS:
        lines += [("prompt", f"$ {command}"), *_output(command, home), ("", "")]
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw(lines[:-1]))
    print(f"{PICTURE.relative_to(ROOT)}: {len(lines) - 1} lines")
    return 0


def _output(command: str, home: str) -> list[tuple[str, str]]:
    words = [sys.executable, "-m", "beemeshctl.main", *command.split()[1:]]
    environment = {**os.environ, "BEEMESH_HOME": home}
    result = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    texts = result.stdout.rstrip().splitlines()
    shown = texts[:LINES_PER_COMMAND_MAX]
    lines = [("head" if text.startswith(("NAME", "NODE ")) else "", text[:COLUMNS_MAX]) for text in shown]
    return lines + ([("", "…")] if len(texts) > len(shown) else [])


def draw(lines: list[tuple[str, str]]) -> str:
    """The SVG of (class, text) lines on a dark ground."""
    width = int(2 * MARGIN + CHARACTER_WIDTH * max(len(text) for _, text in lines))
    height = 2 * MARGIN + LINE_HEIGHT * len(lines)
    rows = [
        f'<text x="{MARGIN}" y="{MARGIN + LINE_HEIGHT * (index + 0.75):.0f}"'
        f'{f" class={chr(34)}{kind}{chr(34)}" if kind else ""} xml:space="preserve">{html.escape(text)}</text>'
        for index, (kind, text) in enumerate(lines)
        if text
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"<style>{STYLE}</style>"
        f'<rect width="{width}" height="{height}" rx="8" fill="#2e3440"/>\n' + "\n".join(rows) + "\n</svg>\n"
    )


if __name__ == "__main__":
    sys.exit(main())
