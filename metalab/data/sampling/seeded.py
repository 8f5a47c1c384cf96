"""Random numbers by seed, stream and name."""

import hashlib

import torch


def generator(seed: int, stream: str, name: str) -> torch.Generator:
    """Return the random numbers of this name: of other streams and names they are others."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
