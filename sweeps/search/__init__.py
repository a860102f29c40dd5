"""Search methods, one module each, which turn the sweep file's parameters into sets of trials."""
