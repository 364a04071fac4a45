"""The `c2s` command: one file per verb, nothing heavy imported before a verb runs."""

try:
    from c2s.cli.app import app, main
except KeyboardInterrupt:  # Ctrl-C before there is a `main` that could say so
    raise SystemExit(130) from None

__all__ = ["app", "main"]
