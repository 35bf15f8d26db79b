"""Several arms and seeds side by side."""
