"""Products of matrices, and the recurrent operators as PyTorch's modules.

Those keep their weights as cuDNN wants them: in one piece.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from profilers.torch_operators.base import Builder, Function, Operator, UnsupportedError, plain

# Gates in torch's order, as positions in ONNX's: iofc to ifgo, zrh to rzn.
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_MODULES = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


class Recurrent(nn.Module):
    """One layer, inputs and outputs as ONNX has them: `(steps, batch, features)`.

    The state is `(directions, batch, hidden)`; the output has an axis of directions more than
    torch's: `(steps, directions, batch, hidden)`.
    """

    def __init__(self, rnn: nn.RNNBase, is_reversed: bool) -> None:
        super().__init__()
        self.rnn = rnn
        self._is_reversed = is_reversed
        self._directions = 2 if rnn.bidirectional else 1

    def forward(self, x: torch.Tensor, *state: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Outputs of all steps, then the last state."""
        given = [tensor for tensor in state if tensor is not None]
        start = None if not given else tuple(given) if len(given) > 1 else given[0]
        output, last = self.rnn(x.flip(0) if self._is_reversed else x, start)
        if self._is_reversed:
            output = output.flip(0)
        steps, batch, _ = output.shape
        output = output.reshape(steps, batch, self._directions, -1).transpose(1, 2)
        return (output, *(last if isinstance(last, tuple) else (last,)))


def recurrent(
    kind: str, w: torch.Tensor, r: torch.Tensor, b: torch.Tensor | None, direction: str
) -> Recurrent:
    """The layer with ONNX's weights.

    Args:
        kind: `LSTM`, `GRU` or `RNN`.
        w: Of the inputs, `(directions, gates * hidden, features)`.
        r: Of the state, `(directions, gates * hidden, hidden)`.
        b: Of both, `(directions, 2 * gates * hidden)`; None: no bias.
        direction: `forward`, `reverse` or `bidirectional`.
    """
    hidden, order = r.shape[-1], _GATES[kind]
    rnn: nn.RNNBase = _MODULES[kind](
        w.shape[-1], hidden, bias=b is not None, bidirectional=direction == "bidirectional"
    )

    def set_weight(name: str, values: torch.Tensor) -> None:
        gates = values.chunk(len(order))
        parameter = getattr(rnn, name)
        parameter.data.copy_(torch.cat([gates[i] for i in order]))
        parameter.requires_grad_(False)

    for i, suffix in enumerate(("", "_reverse")[: w.shape[0]]):
        set_weight(f"weight_ih_l0{suffix}", w[i])
        set_weight(f"weight_hh_l0{suffix}", r[i])
        if b is not None:
            of_inputs, of_state = b[i].chunk(2)
            set_weight(f"bias_ih_l0{suffix}", of_inputs)
            set_weight(f"bias_hh_l0{suffix}", of_state)
    return Recurrent(rnn, direction == "reverse")


def _gemm(op: Operator) -> Function:
    alpha, beta = op.get("alpha", 1.0), op.get("beta", 1.0)
    transpose_a, transpose_b = bool(op.get("transA", 0)), bool(op.get("transB", 0))
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    is_plain = alpha == beta == 1 and not transpose_a and transpose_b
    if is_plain and (bias is None or bias.dim() == 1):
        return F.linear

    def run(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> Any:
        a, b = a.t() if transpose_a else a, b.t() if transpose_b else b
        if c is None:
            return alpha * (a @ b)
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return run


def _einsum(op: Operator) -> Function:
    equation = op.get("equation")
    return lambda *tensors: torch.einsum(equation, *tensors)


def _recurrent(op: Operator) -> Function:
    weights = [op.constant(i) for i in (1, 2, 3)]
    if len(op.inputs) > 4 and op.inputs[4] is not None:
        raise UnsupportedError("its sequences differ in length")
    if len(op.inputs) > 7 and op.inputs[7] is not None:
        raise UnsupportedError("it has peepholes")
    op.read.add(4)
    names = {
        "LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"],
    }[op.kind]  # fmt: skip
    given = [name.decode() for name in op.get("activations", [])]
    if given and given not in (names, names * 2):
        raise UnsupportedError(f"its activations are {', '.join(given)}")
    for name, value in (("clip", 0), ("input_forget", 0), ("layout", 0)):
        if op.get(name, value) != value:
            raise UnsupportedError(f"its {name} is {op.get(name)}")
    if op.kind == "GRU" and not op.get("linear_before_reset", 0):
        raise UnsupportedError("its reset gate acts before the product, in torch it acts after")
    w, r, b = weights
    if w is None or r is None:
        raise UnsupportedError("its weights are left out")
    module: nn.Module = recurrent(op.kind, w, r, b, op.get("direction", "forward"))
    return module.to(op.float_dtype)


BUILDERS: dict[str, Builder] = {
    "Einsum": _einsum, "GRU": _recurrent, "Gemm": _gemm, "LSTM": _recurrent,
    "MatMul": plain(torch.matmul), "RNN": _recurrent,
}  # fmt: skip
