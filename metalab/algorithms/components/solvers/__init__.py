"""Heads that are solved for: logistic and cosine regression, the support vector machine."""
