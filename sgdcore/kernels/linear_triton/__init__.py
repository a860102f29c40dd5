"""The CUDA kernel for models that are linear in their parameters."""
