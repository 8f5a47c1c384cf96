"""`metalab data`: what data sets there are, on disk or not, what they leak and what they look like."""
