"""One training in several processes, as torchrun starts them: who is who, and what they tell each other."""
