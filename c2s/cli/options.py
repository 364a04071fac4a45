"""Options that several commands have."""

ALLOW_CODE = "Import and call the python: student that a run, folded model or file names; only if you trust it."
