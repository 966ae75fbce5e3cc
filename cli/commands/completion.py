"""`runfold completion SHELL`: the script that teaches a shell our commands and run ids."""

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell: `eval "$(runfold completion bash)"`."""
    made_by = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}[shell]
    click.echo(made_by(context.find_root().command, {}, "runfold", "_RUNFOLD_COMPLETE").source())
