"""Runs one request under one plan: load, encode, denoise, decode."""
