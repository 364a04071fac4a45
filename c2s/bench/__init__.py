"""Benchmarks: each runs the product beside a reference, in one process, on the same inputs."""
