"""What tells a space from all others: everything that it can make, not its name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hwnas.code_digest import code_digest
from hwnas.spaces.architecture import Block, block_data
from hwnas.spaces.choices import SlotTable

if TYPE_CHECKING:
    from hwnas.spaces.base import SearchSpace

__all__ = ["space_fingerprint"]


def space_fingerprint(space: SearchSpace) -> str:
    """Sixteen hexadecimal digits that change when a network of the space would.

    They cover the choices, what each slot makes of every combination of them, the constraints, and
    the code of the modules that blocks of the user's own are defined in, and of what these import
    from beside them: the same fields may build something else tomorrow. Blocks of this package are
    told by their fields.
    """
    blocks: dict[Block | None, int] = {}  # by number: many slots share them
    slots = [
        _table_data(table, [blocks.setdefault(block, len(blocks)) for block in table.values])
        for table in space.slot_tables
    ]
    described = {
        "input_type": space.input_type,
        "choices": [[choice.name, choice.options] for choice in space.choices],
        "input": _table_data(space.input_table, space.input_table.values),
        "blocks": [None if block is None else block_data(block) for block in blocks],
        "slots": slots,
        "constraints": [_table_data(table, table.values) for table in space.constraint_tables],
        "code": {module: code_digest(module) for module in sorted(_own_modules(blocks))},
    }
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def _table_data(table: SlotTable, values: Sequence[Any]) -> list[Any]:
    arrays = table.index.tobytes() + table.reads.tobytes()
    return [table.columns, table.sizes, values, hashlib.sha256(arrays).hexdigest()]


def _own_modules(blocks: Iterable[Block | None]) -> set[str]:
    modules = {type(block).__module__ for block in blocks if block is not None}
    return {module for module in modules if module.partition(".")[0] != "hwnas"}
