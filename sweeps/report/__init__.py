"""The report: pages, tables, figures and notes about a sweep's results."""
