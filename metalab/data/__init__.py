"""Data sets, one file each: every one has load(split) and stands on the same store."""
