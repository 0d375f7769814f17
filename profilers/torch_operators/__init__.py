"""ONNX operators in PyTorch: a table from the operator's kind to a builder of a small function.

A builder reads attributes and constant inputs once, when the model is loaded, and returns what
runs: a function (or module) of the remaining inputs. So padding, axes and shapes cost nothing at
run time. A new operator is a builder and a line in the table of its file.
Meaning of the operators: https://onnx.ai/onnx/operators/
"""

from profilers.torch_operators import convolution, elementwise, products, shapes
from profilers.torch_operators.base import Builder, Function, Operator, UnsupportedError
from profilers.torch_operators.shapes import tensor_value

BUILDERS: dict[str, Builder] = {
    **elementwise.BUILDERS,
    **convolution.BUILDERS,
    **products.BUILDERS,
    **shapes.BUILDERS,
}

__all__ = ["BUILDERS", "Builder", "Function", "Operator", "UnsupportedError", "tensor_value"]
