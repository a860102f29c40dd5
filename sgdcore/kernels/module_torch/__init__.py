"""The kernel for any torch.nn.Module, on CPU and CUDA."""
