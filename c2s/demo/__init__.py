"""The embedded default: the Shapes world, its CLIP teacher, and the demo."""
