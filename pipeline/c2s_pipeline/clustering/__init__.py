"""K-means over dense features: seeds, backends, merging, and what rounding does to it."""
