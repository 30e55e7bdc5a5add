"""Teaches a published backbone to read carriers, by adapters, on annotated videos or simulated sites (arXiv 2503.09387, 3.4)."""
