"""The Shapes world: its scenes, the CLIP teacher that knows them, what fits both."""
