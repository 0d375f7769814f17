"""Predict the cost of networks that nobody has run, with calibrated intervals."""

__distribution__ = "hwnas"
