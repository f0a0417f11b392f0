"""Runs models in pieces with the same result, from a fraction of the memory."""
