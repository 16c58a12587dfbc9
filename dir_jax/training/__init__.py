"""Training: the three-stage gradient, optimiser, hard-negative mining, and the loop around them."""
