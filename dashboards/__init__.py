"""The dashboard: a local web app for a store, with running sweeps, maps, trials, comparisons and history."""
