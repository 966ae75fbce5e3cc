"""Runs over a graph: which step may start, what it reads and makes, and what need not be made again."""
