"""What a run is, and what it chooses by itself."""
