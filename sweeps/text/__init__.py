"""Text helpers: number formats, sanitizing and redaction."""
