"""One file a paper: the pseudo-code on metalab.interfaces.Learner, run by every engine."""
