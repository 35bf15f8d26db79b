"""A run's moving parts: data, networks, optimizer, state, cost."""
