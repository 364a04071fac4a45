"""Options that several commands have."""

from enum import StrEnum

ALLOW_CODE = "Import and call the python: student that a run, folded model or file names; only if you trust it."


class Mode(StrEnum):
    """How an image is fed to the student."""

    slide = "slide"
    whole = "whole"
