"""Other processes and machines share in the making of batches."""
