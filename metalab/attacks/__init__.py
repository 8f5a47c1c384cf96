"""Attacks: one dataclass a file on one function, (model, images, labels) -> images that the model gets wrong."""
