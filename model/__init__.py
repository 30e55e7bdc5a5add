"""VideoScan (arXiv 2503.09387) on torch and transformers: carriers, memory, positions, training."""
