"""Recorded sessions of other programs, read as finished runs: one file a source format, each pure."""
