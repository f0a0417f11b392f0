"""The machine: cards, memory, disk, versions, and what is wrong with them."""
