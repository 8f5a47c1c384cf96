"""What algorithms are made of: inner steps, heads, distances, losses of pairs, recurrent cells, memory."""
