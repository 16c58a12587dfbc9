"""Independent references that the tests compare with, written from the papers."""
