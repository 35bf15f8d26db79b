"""From plans and files to batches: reading, making, loading, handing over."""
