"""The CPU kernel for models that are linear in their parameters."""
