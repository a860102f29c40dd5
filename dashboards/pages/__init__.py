"""Pages, one a module: what an address shows, and what its callbacks answer."""
