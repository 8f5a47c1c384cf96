"""How a split is measured: in episodes of new classes, or image by image by the classifier that a run trained."""
