"""The command line, one file a command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from mnv3c import __version__
from mnv3c.cli import signals
from mnv3c.cli.output import Output, fail
from mnv3c.errors import CheckFailed, Mnv3cError

__all__ = ["cli", "main"]

# Name to one line for --help; the command is `command` in the module of that name.
_COMMANDS = {
    "compile": "Compile a network to a stand-alone C library.",
    "verify": "Build a library, run it on emulated Arm, compare every bit with the reference.",
    "quantize": "Quantise a network: accuracy beside float, a report, a file to compile later.",
    "run": "Show what a network makes of images: best classes, masks, boxes.",
    "eval": "Top-1, top-5 and agreement with float on labelled images.",
    "tune": "Search the fastest schedules for a core, simulated or real.",
    "latency": "What each layer costs on a core: the table that architecture search looks up.",
    "bench": "What a library costs on a core: instructions, cycles, memory, layer by layer.",
    "device": "Phones and boards that measure for tuning: serve, build, push, list, ping.",
    "inspect": "Layers, shapes, MACs, parameters and memory map of a model or a library.",
    "zoo": "The networks that compile by name.",
    "targets": "The cores and platforms that there is code for.",
    "doctor": "What is installed: compilers, emulators, versions.",
}
_MODULES = {name: f"mnv3c.cli.{name}_command" for name in _COMMANDS}


class _Lazy(click.Group):
    """Imports a command's module when it is called: ``--help`` stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_MODULES[name]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mnv3c")
def cli() -> None:
    """Compiles MobileNetV3 networks to small, fast, stand-alone int8 C libraries for Arm.

    Exit codes: 0 good, 1 a check failed, 2 bad use or bad input.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Users' errors become one line and exit code 2; a failed check exits with 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    output = Output(json="--json" in given)
    try:
        with signals.heard():
            cli.main(args=given, prog_name="mnv3c", standalone_mode=False)
    except CheckFailed as error:
        sys.exit(fail(output, str(error), "", 1))
    except Mnv3cError as error:
        sys.exit(fail(output, error.message, error.place, 2))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.UsageError as error:
        place = error.ctx.command_path.removeprefix("mnv3c").strip() if error.ctx else ""
        sys.exit(fail(output, error.format_message(), place or "command line", 2))
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        # click has its own exception for an interrupt, made from ours.
        reason = stop if isinstance(stop, KeyboardInterrupt) else stop.__cause__
        if isinstance(reason, signals.Terminated):
            sys.exit(fail(output, f"ended by {reason}", "", reason.code))
        sys.exit(fail(output, "interrupted", "", 130))
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone: nothing is left to say to anybody
        sys.exit(141)
