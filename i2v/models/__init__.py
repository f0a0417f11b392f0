"""Model families: one file each declares what the family is, and holds its encode, step and decode."""
