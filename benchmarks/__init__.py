"""What the augmentations cost, beside what users would pick instead: `python -m benchmarks.throughput`."""
