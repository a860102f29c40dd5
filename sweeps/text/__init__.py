"""Text for people: number formats, sanitizing and redaction."""
