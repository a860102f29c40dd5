"""Reports on a sweep's results: pages, tables, figures and notes."""
