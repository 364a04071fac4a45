"""What a GPU must show, in one command of ten minutes: `make gpu`.

Invariant: what leads the steps (this file, `steps`, `runner`, `report`, `environment`, `wheels`) needs
nothing but Python, so a report is there even where nothing could be set up.
"""
