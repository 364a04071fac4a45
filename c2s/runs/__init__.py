"""A run and its folder: configuration, what it was trained on, checkpoint, the student in it."""
