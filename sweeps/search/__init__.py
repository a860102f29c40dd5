"""Search methods, one file each: from the sweep file's parameters to blocks of trials."""
