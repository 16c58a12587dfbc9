"""Checkpoints of PyTorch in and out: the only part of the product that knows torch's formats."""
