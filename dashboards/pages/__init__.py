"""Pages, one per module: the layout at an address and its callbacks."""
