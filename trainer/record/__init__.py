"""What a run writes: checkpoints, metrics, its model card."""
