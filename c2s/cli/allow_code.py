"""The option of all commands that open what may name code: a run, a folded model, a file of settings."""

ALLOW_CODE = "Import and call the python: student that a run, folded model or file names; only if you trust it."
