"""Where weights live, and how they are stored."""
