"""The `runfold` command: each subcommand is imported only when it is asked for, and every failure ends in a hint."""

import atexit
import gc
import importlib
import os
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

# New objects before a look for garbage: what a command imports, click first, would be looked through fifty times.
gc.set_threshold(50_000)

import click  # noqa: E402

from runfold.errors import RunfoldError  # noqa: E402

# Name → module, attribute, one line of help; so that `--help` and completion import no command.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("cli.commands.up", "up", "Serve the API and the dashboard from the data folder"),
    "worker": ("cli.commands.worker", "worker", "Drive queued runs without serving anything"),
    "init": ("cli.commands.init", "init", "Write a runfold.toml for the agents found here"),
    "check": ("cli.commands.check", "check", "Validate runfold.toml"),
    "run": ("cli.commands.run", "run", "Run a command or a workflow here and record it"),
    "ps": ("cli.commands.ps", "ps", "List runs, newest first"),
    "status": ("cli.commands.status", "status", "Show where a run stands"),
    "watch": ("cli.commands.watch", "watch", "Follow a run's events until it rests"),
    "wait": ("cli.commands.watch", "wait", "Wait until a run rests; the exit code says how it ended"),
    "logs": ("cli.commands.logs", "logs", "Print what a run's command wrote"),
    "events": ("cli.commands.events", "events", "List a run's recorded events"),
    "history": ("cli.commands.events", "history", "List a run's status changes"),
    "steps": ("cli.commands.steps", "steps", "List a run's steps"),
    "costs": ("cli.commands.costs", "costs", "Show tokens and cost by model, day, workflow, run or step"),
    "sql": ("cli.commands.sql", "sql", "Ask the log and the views in SQL; nothing can be changed"),
    "audit": ("cli.commands.audit", "audit", "List who did what when, over all runs"),
    "report": ("cli.commands.explain", "report", "Write a run up as Markdown"),
    "why": ("cli.commands.explain", "why", "Say what led to a run's present status"),
    "diff": ("cli.commands.explain", "diff", "Show where two runs part, and what each then made and cost"),
    "replay": ("cli.commands.replay", "replay", "Play a run on the terminal as it happened"),
    "cancel": ("cli.commands.act", "cancel", "Cancel a run"),
    "kill": ("cli.commands.act", "cancel", "The same as cancel"),
    "pause": ("cli.commands.act", "pause", "Pause a run at its next turn"),
    "resume": ("cli.commands.act", "resume", "Let a paused or stopped run go on"),
    "retry": ("cli.commands.retry", "retry", "Try a run again, whole or from a step"),
    "note": ("cli.commands.annotate", "note", "Add a note to a run"),
    "label": ("cli.commands.annotate", "label", "Label a run, or change its title"),
    "step": ("cli.commands.step", "step", "Start, complete, fail, skip, rerun or reset a step"),
    "complete": ("cli.commands.ending", "complete", "Complete a run that is driven by hand"),
    "fail": ("cli.commands.ending", "fail", "Fail a run that is driven by hand"),
    "approvals": ("cli.commands.approvals", "approvals", "List the questions that runs wait with"),
    "approve": ("cli.commands.approvals", "approve", "Grant what a run asks; it goes on"),
    "deny": ("cli.commands.approvals", "deny", "Deny what a run asks; it stops"),
    "open": ("cli.commands.open", "open_", "Open the dashboard, or a run's page, in a browser"),
    "token": ("cli.commands.token", "token", "Make, list and revoke tokens"),
    "backup": ("cli.commands.backup", "backup", "Copy the data folder while runs go on"),
    "restore": ("cli.commands.backup", "restore", "Prove a backup and put it into an empty data folder"),
    "anchors": ("cli.commands.anchors", "anchors", "Print the log's anchors, signed, to be kept elsewhere"),
    "log": ("cli.commands.log_copy", "log", "Move the log to a cluster or back, or restore it"),
    "verify": ("cli.commands.verify", "verify", "Prove the log, its blobs and the views"),
    "import": ("cli.commands.import_", "import_", "Import recorded sessions as finished runs"),
    "recover": ("cli.commands.act", "recover", "End runs of this host whose driver is gone"),
    "export": ("cli.commands.clean", "export", "Write a run to one compressed, verifiable file"),
    "clean": ("cli.commands.clean", "clean", "Archive old runs and empty their output"),
    "redact": ("cli.commands.redact", "redact", "Take a secret out of a run, for good"),
    "rebuild": ("cli.commands.rebuild", "rebuild_views", "Fold every view anew from the log"),
    "skip": ("cli.commands.skip", "skip", "Let a parked view leave out the event it cannot take"),
    "doctor": ("cli.commands.doctor", "doctor", "Show settings, platform and what is wrong with them"),
    "demo": ("cli.commands.demo", "demo", "Drive a small run and show it live"),
    "emit": ("cli.commands.emit", "emit", "Print a telemetry line for the run around this program"),
    "ingest": ("cli.commands.ingest", "ingest", "Record what a program reports on stdin, a line each"),
    "completion": ("cli.commands.completion", "completion", "Print the completion script of a shell"),
}
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items() if name != "kill"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `runfold {near[0]}`?" if near else "`runfold --help` lists the commands"
            raise Usage(f"there is no command `{args[0]}`", hint=hint)
        return super().resolve_command(ctx, args)


class Usage(click.UsageError):
    """A usage error with a hint of its own."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", type=click.Path(file_okay=False), help="The data folder; see `runfold doctor`.")
@click.option("--log", metavar="ADDRESS", help="A replicated log, nats://host,host,host/name; by default the folder's.")
@click.option("--log-level", help="debug, info, warning or error.")
@click.version_option(package_name=None, version=__import__("runfold").__version__, prog_name="runfold")
@click.pass_context
def group(context: click.Context, data: str | None, log: str | None, log_level: str | None) -> None:
    """Record, drive, prove and show runs."""
    context.obj = {"data": data, "log": log, "log_level": log_level}


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        code: Any = group.main(prog_name="runfold", standalone_mode=False)
        print(end="", flush=True)
    except RunfoldError as error:
        _say(error.message, error.hint)
        code = 1
    except click.UsageError as error:
        hint = getattr(error, "hint", "") or _said_more(error)
        _say(_lower(error.format_message()), hint)
        code = EXIT_USAGE
    except click.ClickException as error:
        _say(_lower(error.format_message()), "")
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has seen enough. Python would complain again while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        # What the disk or the system refuses is told in its own words, and is no mistake of ours.
        named = f": `{error.filename}`" if error.filename else ""
        _say(f"{_lower(error.strerror or str(error))}{named}", "`runfold doctor` says what is wrong here")
        code = 1
    except Exception as error:
        # Here and not at the top: a command that asks a server needs no SQLite.
        from eventstore.sqlite3_module import sqlite3

        if not isinstance(error, sqlite3.DatabaseError):
            raise
        _say(
            f"a file of the data folder cannot be read or written: {error}",
            "keep a copy of the folder; then `runfold verify`",
        )
        code = 1
    _leave(code if isinstance(code, int) else 0)


def _leave(code: int) -> NoReturn:
    """Exit; where nothing waits for the end without taking the interpreter apart: a sixth of a short command's time."""
    if threading.active_count() == 1 and atexit._ncallbacks() == 0:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _say(message: str, hint: str) -> None:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"\nhint: {hint}", err=True)


def _said_more(error: click.UsageError) -> str:
    of_all = {option for param in group.params for option in param.opts}
    if isinstance(error, click.NoSuchOption) and error.option_name in of_all and error.ctx is not None:
        return f"it stands before the command: `runfold {error.option_name} … {error.ctx.info_name}`"
    return f"`{error.ctx.command_path if error.ctx else 'runfold'} --help` says more"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


if __name__ == "__main__":
    main()
