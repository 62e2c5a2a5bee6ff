"""Tensor to tensor: the mathematics of the papers."""
