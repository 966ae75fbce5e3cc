"""Measures what it costs, beside what limits it; `python -m bench` runs all and writes RESULTS.md."""
