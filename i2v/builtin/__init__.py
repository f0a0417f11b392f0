"""The shipped motion model: weights, its card, and the scripts that trained and measured it."""
