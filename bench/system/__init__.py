"""What keeping the planes apart is worth, measured on a running system beside its baselines."""
