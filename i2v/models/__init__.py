"""Model families: one file each says how to load it, its size rules, and its three doors."""
