"""Makes runs happen: the turn, the process tree and its keeper, and the output."""
