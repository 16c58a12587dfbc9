"""What happens to descriptors: search, whitening, evaluation. Pure functions of arrays."""
