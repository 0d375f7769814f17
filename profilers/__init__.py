"""Measure what networks and their kernels cost on a device. Useful without any search."""

__distribution__ = "hwnas"
