"""Devices, replicas, the compiler and the allocator, and files on disk."""
