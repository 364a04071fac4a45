"""Options that several commands have."""

ALLOW_CODE = "Import and call the python: student or method that a run, model or file names; only if you trust it."
