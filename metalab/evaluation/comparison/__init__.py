"""The parts of `metalab compare`: measuring runs alike, saying what may be compared, and how sure it is."""
