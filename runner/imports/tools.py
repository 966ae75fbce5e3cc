"""What an agent's tool call means for files and commands, whatever the agent calls the tool."""

import re

from runfold.events import CommandExecuted, Event, FileDeleted, FileRead, FileWritten
from runner.imports.values import items, text

OUTPUT_TAIL_CHARACTERS = 2048

_SHELLS = frozenset(
    {"bash", "shell", "shell_command", "local_shell", "exec_command", "run_shell_command", "execute", "run", "terminal",
     "execute_bash", "container.exec", "run_terminal_cmd"}
)  # fmt: skip
_WRITES = frozenset(
    {"write", "edit", "multiedit", "notebookedit", "write_file", "edit_file", "replace", "create", "str_replace",
     "create_file", "applypatch", "str_replace_editor", "file_editor"}
)  # fmt: skip
_READS = frozenset({"read", "read_file", "view", "open", "readfile", "view_image"})
_DELETES = frozenset({"delete", "delete_file", "remove_file"})
_PATHS = ("file_path", "filePath", "path", "absolute_path", "notebook_path", "file_name", "filename")
_EXIT = re.compile(r"(?:^|\n|\\n)(?:Process exited with code|Exit code:?|Exit Code:) ?(-?\d{1,5})\b", re.I)


def meaning(
    tool: str,
    arguments: object,
    output: str,
    *,
    failed: bool = False,
    exit_code: int | None = None,
    duration_ms: int | None = None,
    status: str = "",
) -> tuple[Event, ...]:
    """The command that ran or the file that was touched; nothing for other tools, and no file where the call failed."""
    name = tool.lower()
    if name in _SHELLS:
        command = command_text(arguments)
        if not command:
            return ()
        code = exit_code if exit_code is not None else exit_code_of(output)
        said = status or ("failed" if failed or code not in (None, 0) else "completed")
        tail = output[-OUTPUT_TAIL_CHARACTERS:]
        return (
            CommandExecuted(
                command=command, exit_code=code, status=said, duration_ms=duration_ms, output_tail=tail
            ),
        )  # fmt: skip
    path = next((found for key in _PATHS if (found := text(arguments, key))), "")
    if failed or not path:
        return ()
    verb = text(arguments, "command").lower() if name in ("str_replace_editor", "file_editor") else name
    if name in _READS or verb == "view":
        return (FileRead(path=path),)
    if name in _WRITES:
        added = name in ("write", "write_file", "create", "create_file") or verb == "create"
        return (FileWritten(path=path, kind="add" if added else "update"),)
    return (FileDeleted(path=path),) if name in _DELETES else ()


def command_text(arguments: object) -> str:
    """The command line of a shell tool's arguments, however they carry it."""
    for key in ("command", "cmd", "script"):
        if found := text(arguments, key):
            return found
        if words := items(arguments, key):
            return " ".join(word for word in words if isinstance(word, str))
    return arguments if isinstance(arguments, str) else ""


def exit_code_of(output: str) -> int | None:
    """The exit code that a tool wrote into its output, where it did."""
    found = _EXIT.search(output[:4096]) or _EXIT.search(output[-4096:])
    return int(found[1]) if found else None
