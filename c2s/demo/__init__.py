"""The demo: cache, training and comparison on the Shapes world."""
