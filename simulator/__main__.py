"""`python -m simulator`: a door that imports nothing heavy, so that Ctrl-C is understood from the first moment on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

INTERRUPTED = 130
"""What a shell says of whom Ctrl-C ended: none of the verdicts."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when no trial violated an invariant, 1 when one did, 2 for what cannot be right, 130 after Ctrl-C."""
    try:
        from simulator.commands import carry_out

        return carry_out(arguments)
    except KeyboardInterrupt as interrupt:
        print("interrupted" + "".join(f"; {word}" for word in interrupt.args), file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
