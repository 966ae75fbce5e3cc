"""One file a command, or a few that belong together; `cli/main.py` names them all."""
