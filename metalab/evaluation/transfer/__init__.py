"""What a net keeps of another domain or of earlier trainings, and how it is adapted to a target."""
