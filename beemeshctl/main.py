"""`beemeshctl`: finds the command, and turns what goes wrong into a message and an exit code.

Nothing heavy is imported here: `beemeshctl --help` answers in under 150 ms, and a test looks at `sys.modules`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from beemesh.errors import BeemeshError, ExitCode
from beemeshctl.commands import COMMANDS

_EPILOG = "Exit codes: 0 done, 1 failed, 2 invalid input, 3 not allowed, 4 timed out or unreachable."


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, sorted, without importing anything."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command behind a name, or None when there is none."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = importlib.import_module(entry.module).command
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.module}.command is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a guess at what was meant."""
        name = args[0] if args else ""
        if name not in COMMANDS and not name.startswith("-"):
            import difflib

            close = difflib.get_close_matches(name, COMMANDS, n=1)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"no such command {name!r}.{guess}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands from the table, so that help imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].summary) for name in sorted(COMMANDS)])


@click.group(
    cls=LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
def beemeshctl() -> None:
    """Run containers on a mesh of your own machines.

    Start with `beemeshctl bootstrap inventory.yaml`, then `beemeshctl apply manifest.yaml`. The mesh's keys and context
    are kept in $BEEMESH_HOME, by default `.beemesh` beside the inventory.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; every error has been told to the person by then."""
    try:
        result = beemeshctl.main(args=arguments, prog_name="beemeshctl", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else str(error))
        return ExitCode.INVALID_INPUT
    except click.ClickException as error:
        error.show()
        return ExitCode.INVALID_INPUT if isinstance(error, click.UsageError) else ExitCode.FAILED
    except BeemeshError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return ExitCode.FAILED
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); keep the interpreter from complaining about it at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), error)
    except Exception as error:
        return _fail(f"internal error: {type(error).__name__}: {error}", error)
    return result if isinstance(result, int) else ExitCode.DONE


def _fail(message: str, error: Exception) -> int:
    if os.environ.get("BEEMESH_DEBUG"):
        import traceback

        traceback.print_exception(error)
    click.echo(f"error: {message}\n  set BEEMESH_DEBUG=1 to see where it happened", err=True)
    return ExitCode.FAILED


def main() -> NoReturn:
    """The console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
