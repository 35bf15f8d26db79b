"""The former program: ends with the command that took its place."""

import sys

print(
    "benchmarks.sweep: error: it is now python -m benchmarks.throughput --over batch|size|image|images|threads; "
    "instead of --samples N give --batch and --batches",
    file=sys.stderr,
)
sys.exit(2)
