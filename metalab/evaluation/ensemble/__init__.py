"""Several nets as one: the same episodes for all, their probabilities averaged, counted as votes, or stacked."""
