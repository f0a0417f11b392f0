"""A family that lives only here: what adding a model takes, and the proof that nothing else must be touched."""
