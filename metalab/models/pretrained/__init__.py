"""Nets of other libraries as backbones: their weights, what these have seen, and which part of them learns."""
