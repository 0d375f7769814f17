"""From a module to its steps, by `torch.export`: what Python decided is decided, what runs is left.

The batch is traced at a size of its own, so that what follows it can be told from other numbers.
"""

from __future__ import annotations

import io
import logging
import operator
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export.graph_signature import InputKind
from torch.fx import Node

from hwnas.around.steps import INPUT, Batch, Model, Ref, Step, mapped
from hwnas.networks import without_fast_paths
from hwnas.spaces.base import InputType, Shape, SpaceError

__all__ = ["TRACED_BATCH", "Logits", "in_eval_mode", "operator_of", "trace"]

TRACED_BATCH = 23  # no size that models have
_WRAPPED = "model."
_TORCH = str(Path(torch.__file__).parent)
_FILLS = frozenset(("zeros", "ones", "full"))  # make a tensor of a size that is given


class Logits(nn.Module):
    """A model whose answer is one tensor: its own, its `logits`, or the first of several."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Any input of the model."""
        y = self.model(x)
        if isinstance(y, Tensor):
            return y
        found = getattr(y, "logits", None)
        if found is None and isinstance(y, dict):
            found = next((v for v in y.values() if isinstance(v, Tensor)), None)
        if found is None and isinstance(y, tuple | list) and y and isinstance(y[0], Tensor):
            found = y[0]
        if not isinstance(found, Tensor):
            raise SpaceError(
                f"the model must give a tensor, something with `logits`, or a tuple that begins "
                f"with a tensor, got {type(y).__name__}"
            )
        return found


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Set eval mode; every module has its own mode back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, is_training in modes.items():
            module.training = is_training


def trace(model: nn.Module, example: Tensor) -> Model:
    """The steps of `model` in eval mode; its own modes are left as they were.

    Args:
        model: Takes a batch `(n, ...)` and gives one tensor `(n, ...)`; see `Logits`.
        example: Any batch that it takes.

    Raises:
        SpaceError: Its code cannot be followed; why.
    """
    shape: Shape = tuple(example.shape[1:])
    if example.ndim < 2 or example.dtype not in (torch.float32, torch.int64):
        raise SpaceError(
            f"the example must be a batch (n, ...) of float32, or of int64 token ids, got "
            f"{tuple(example.shape)} of {str(example.dtype).removeprefix('torch.')}"
        )
    if any(p.device.type != "cpu" for p in (*model.parameters(), example)):
        raise SpaceError("the model and the example must be on the CPU: call model.cpu() first")
    x = example[:1].expand(TRACED_BATCH, *shape).contiguous()
    with in_eval_mode(model), warnings.catch_warnings(), without_fast_paths():
        warnings.simplefilter("ignore")  # of the exporter, on what is none of the user's concern
        program = _exported(Logits(model), x)
    input_type: InputType = "float32" if example.is_floating_point() else "int64"
    weights = {**dict(program.named_parameters()), **dict(program.named_buffers())}
    weights |= {k: v for k, v in program.constants.items() if isinstance(v, Tensor)}
    copies = {_own(name): _copy(value) for name, value in weights.items()}
    found = Model([], INPUT, copies, shape, input_type)
    _read(program, found)
    return found


def _copy(value: Tensor) -> Tensor:
    """Of a weight: what is done to the model later changes nothing of its space."""
    copy = value.detach().clone()
    is_parameter = isinstance(value, nn.Parameter)
    return nn.Parameter(copy, value.requires_grad) if is_parameter else copy


def _exported(model: nn.Module, x: Tensor) -> Any:
    # Before 2.7, `export` rewrote the operators of training; this one left them as they are.
    old = torch.__version__.startswith("2.6")
    export = getattr(torch.export, "export_for_training" if old else "export")
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        # It prints whole graphs. What a model does without gradients would be a graph of its own.
        with redirect_stderr(io.StringIO()), torch.no_grad():
            return export(model, (x,), strict=False)
    except SpaceError:
        raise
    except Exception as error:  # of the exporter, or of the model: there are dozens of kinds
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise SpaceError(
            f"torch.export cannot follow {_place(error, model)}: {type(error).__name__}: {reason}. "
            f"The forward must take one tensor and must not decide by values of tensors: put "
            f"something else in the layer's place"
        ) from error
    finally:
        logging.disable(before)


def _place(error: Exception, model: nn.Module) -> str:
    """The layer, and the line of its code, that raised."""
    names = {id(module): _own(name) for name, module in model.named_modules()}
    names |= {id(model): "", id(model.model): ""}
    found = "the model"
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        path, name = (
            code.co_filename,
            names.get(id(frame.f_locals.get("".join(code.co_varnames[:1])))),
        )
        if name is not None and path != __file__ and not path.startswith(_TORCH):
            found = f"{repr(name) if name else 'the model'} ({path}:{line})"
    return found


def _own(name: str) -> str:
    return name.removeprefix(_WRAPPED)


def _read(program: Any, model: Model) -> None:
    """Take the steps over, with tensors by `Ref`; what depends on no input is computed here."""
    known: dict[str, Any] = {}  # by name of a node: a Ref, or the refs of a tuple
    for spec, node in zip(
        program.graph_signature.input_specs,
        (node for node in program.graph.nodes if node.op == "placeholder"),
        strict=True,
    ):
        is_input = spec.kind == InputKind.USER_INPUT
        known[node.name] = INPUT if is_input else Ref(_own(spec.target), is_weight=True)
    for node in program.graph.nodes:
        if node.op == "get_attr":
            known[node.name] = Ref(_own(node.target), is_weight=True)
        elif node.op == "call_function":
            _call(node, model, known)
        elif node.op == "output":
            (output,) = node.args[0]
            model.output = known[output.name]
    _drop_unused(model)


def _call(node: Node, model: Model, known: dict[str, Any]) -> None:
    if node.target is operator.getitem:
        source, index = node.args
        known[node.name] = known[source.name][index]  # type: ignore[union-attr,index]
        return
    target: Any = node.target
    if not isinstance(target, OpOverload) or target.namespace != "aten":
        raise SpaceError(
            f"{_layer(node) or 'the model'!r} calls {target}, which is no operator of ATen: put "
            f"something else in its place"
        )
    op = f"{target._schema.name.removeprefix('aten::')}.{target._overloadname}"
    kind, _, overload = op.partition(".")
    if kind == "_assert_tensor_metadata":
        return
    args, kwargs = mapped(
        [list(node.args), dict(node.kwargs)], lambda v: known[v.name] if isinstance(v, Node) else v
    )
    value = node.meta["val"]
    is_tuple = isinstance(value, tuple | list)
    shapes = tuple(tuple(v.shape) for v in (value if is_tuple else [value]))
    is_in_place = kind.endswith("_") and not kind.startswith("_")
    if is_in_place:
        op = f"{kind[:-1]}.{overload}"
    step = Step(Ref(node.name), op, tuple(args), kwargs, _layer(node), shapes, is_tuple)
    if kind in _FILLS and TRACED_BATCH in args[0]:
        step.args = ([Batch() if n == TRACED_BATCH else n for n in args[0]], *args[1:])
    elif all(ref.is_weight and not model.is_parameter(ref.name) for ref in step.inputs()):
        known[node.name] = _computed(step, model)
        return
    model.steps.append(step)
    known[node.name] = step.ref
    if is_tuple:
        known[node.name] = [Ref(f"{node.name}.{i}") for i in range(len(shapes))]
    if is_in_place:  # whoever reads its argument from here on, reads what was written there
        changed: Any = node.args[0]
        for name, ref in list(known.items()):
            if ref == known[changed.name]:
                known[name] = step.ref


def _computed(step: Step, model: Model) -> Any:
    """A constant in place of a step that reads no input and no parameter."""
    args, kwargs = mapped(
        [list(step.args), step.kwargs],
        lambda v: model.weights[v.name] if isinstance(v, Ref) else v,
    )
    with torch.no_grad():
        result = operator_of(step.op)(*args, **kwargs)
    found = []
    for i, value in enumerate(result if step.is_tuple else [result]):
        name = f"constants.{step.ref.name}_{i}"
        model.weights[name] = value
        found.append(Ref(name, is_weight=True))
    return found if step.is_tuple else found[0]


def operator_of(op: str) -> Any:
    """The operator of ATen of that name, `relu.default`."""
    kind, _, overload = op.partition(".")
    return getattr(getattr(torch.ops.aten, kind), overload or "default")


def _layer(node: Node) -> str:
    """Path of the innermost module that the node is called in."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return _own(path) if path.startswith(_WRAPPED) else ""


def _drop_unused(model: Model) -> None:
    needed = {model.output}
    kept = []
    for step in reversed(model.steps):
        given = [step.ref, *(Ref(f"{step.ref.name}.{i}") for i in range(len(step.shapes)))]
        if needed.intersection(given):
            needed.update(step.inputs())
            kept.append(step)
    model.steps = kept[::-1]
    _narrow_constants(model)
    used = {ref.name for step in model.steps for ref in step.inputs() if ref.is_weight}
    model.weights = {name: value for name, value in model.weights.items() if name in used}


def _narrow_constants(model: Model) -> None:
    """Constants that repeat one value for every example of the batch hold it once."""
    for name, value in model.weights.items():
        if name.startswith("constants.") and value.ndim and value.shape[0] == TRACED_BATCH:
            first = value[:1]
            if bool((value == first).all()):
                model.weights[name] = first.clone()
