"""What a person types: argv -> Hydra -> one job."""

from metalab.cli.app import main

__all__ = ["main"]
