"""One subprocess of a run: its keeper, its output, what is heard in it, and the files it changes."""
