"""Building caches: requests, blocks, workers, plans, derived caches, verification."""
