"""How the T tasks of a meta-batch run: one after another (learn2learn), or all at once."""
