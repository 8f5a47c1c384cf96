"""Regularisation as a list of parts, each with its own weight: `reg=[l2,dropout]`; one idea a file."""

from metalab.regularisers.terms import ATTACKS, Make, Penalised, Regulariser, Setting, Terms, combine, same_loss

__all__ = ["ATTACKS", "Make", "Penalised", "Regulariser", "Setting", "Terms", "combine", "same_loss"]
