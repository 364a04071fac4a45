"""The `c2s` command: one file per verb, nothing heavy imported before a verb runs."""

from c2s.cli.app import app, main

__all__ = ["app", "main"]
