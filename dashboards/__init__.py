"""The dashboard: a local web page over a store: sweeps as they run, their maps and trials, compared and over time."""
