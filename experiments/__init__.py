"""Recipes, one a file, and the synthetic landmarks that the quickstart trains on."""
