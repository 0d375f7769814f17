"""Hardware-aware neural architecture search: from a device and a budget to verified ONNX models."""

from hwnas._siblings import predictors, profilers

__all__ = ["predictors", "profilers"]
__version__ = "0.1.0"
