"""Runs that lost who drove them: found, and ended or handed on."""
