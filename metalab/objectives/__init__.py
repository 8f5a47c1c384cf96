"""The only training losses: one file an objective, each called with learner, episode and training progress."""
