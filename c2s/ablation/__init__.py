"""Grids of runs from one cache: the paper's ablation tables, recipes, and grids of one's own."""
