"""The CPU kernel for multi-layer perceptrons."""
