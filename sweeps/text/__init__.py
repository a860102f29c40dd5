"""Text helpers: number formats, sanitising and redaction."""
