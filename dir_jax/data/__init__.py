"""Data sets, transforms, samplers, and the loader that brings them together."""
