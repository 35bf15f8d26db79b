"""Encoders, heads, and weights files."""
