"""Triton kernels of the fused neuron. This package needs Triton only once one of its modules is imported."""
