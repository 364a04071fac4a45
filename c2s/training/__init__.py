"""Training from a cache: configuration, batches, the Lightning module, runs."""
