"""`hwnas space`: which search spaces there are, what is in one, and a picture of one network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwnas.cli.campaigns import load_space
from hwnas.cli.output import AsJson, DataPath, print_json, print_table, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hwnas.drawing import Layer
    from hwnas.spaces.base import Genotype, SearchSpace, Shape

N_SAMPLED = 30  # random networks that the ranges of parameters and MACs are of, beside two corners
DEFAULT_DATA = "digits"


def space(
    name: Annotated[
        str | None,
        typer.Argument(help="A space, FILE.py:FUNCTION or MODULE:FUNCTION; without: list them."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Data that it is made for, as for search; digits if not said."),
    ] = None,
    data_path: DataPath = None,
    input_shape: Annotated[
        str | None,
        typer.Option("--input", help="Shape of one example in place of data, as 3x224x224."),
    ] = None,
    classes: Annotated[
        int | None, typer.Option("--classes", min=1, help="Number of classes, with --input.")
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option("--vocabulary", min=2, help="With --input of token ids: how many there are."),
    ] = None,
    genotype: Annotated[
        str | None,
        typer.Option("--genotype", help='The network to show, as JSON: {"depth": 2, …}.'),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the network to show, and of the sample.")
    ] = 0,
    draw: Annotated[
        Path | None, typer.Option("--draw", help="Draw the network to this SVG file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a search space: its choices, how many networks it has, and one of them in detail.

    Examples:

    [bold]hwnas space[/bold]

    [bold]hwnas space mobile --input 3x224x224 --classes 10 --draw network.svg[/bold]

    [bold]hwnas space my_space.py:space --data digits --seed 1 --json[/bold]
    """
    from hwnas.spaces.catalog import describe_spaces

    if name is None:
        _list(describe_spaces(), as_json)
        return
    if input_shape is None:
        for option, given in (("--classes", classes), ("--vocabulary", vocabulary)):
            if given is not None:
                raise typer.BadParameter("goes with --input; --data knows it", param_hint=option)
        made = load_space(name, data or DEFAULT_DATA, data_path)
    elif data is not None or classes is None:
        raise typer.BadParameter("needs --classes, and no --data", param_hint="--input")
    else:
        from hwnas.spaces.catalog import make_space

        made = make_space(name, _shape(input_shape), classes, vocabulary=vocabulary)
    found = _Found.of(made, genotype, seed)
    if draw is not None:
        from hwnas.drawing import architecture_svg

        architecture = found.space.architecture(found.genotype)
        write_text(draw, architecture_svg(architecture, title=f"a network of {name}"))
    if as_json:
        print_json(found.record(name) | ({} if draw is None else {"drawing": str(draw)}))
        return
    _show(name, found)
    if draw is not None:
        typer.echo(f"\n{draw}")


def _list(spaces: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json({"spaces": spaces})
        return
    print_table("search spaces", ("name", "what"), spaces.items())
    typer.echo("hwnas space NAME shows one; FILE.py:FUNCTION and MODULE:FUNCTION are your own.")


def _shape(text: str) -> Shape:
    """Read `3x224x224`.

    Raises:
        typer.BadParameter: It is not of that form.
    """
    try:
        shape = tuple(int(size) for size in text.replace(",", "x").split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise typer.BadParameter(f"{text!r} is not like 3x224x224", param_hint="--input")
    return shape


@dataclass(frozen=True)
class _Found:
    """What there is to tell of a space and one network of it.

    Attributes:
        sample: Parameters and MACs of random networks and of the two corners of the space (each
            choice at its first option, and at its last), in ascending order of each.
    """

    space: SearchSpace
    genotype: Genotype
    layers: Sequence[Layer]
    sample: dict[str, list[int]]

    @classmethod
    def of(cls, space: SearchSpace, text: str | None, seed: int) -> _Found:
        """Take the genotype that `text` says, else one at random, and look at some others."""
        import numpy as np

        from hwnas.drawing import layers_of
        from hwnas.networks import counts

        rng = np.random.default_rng(seed)
        drawn = space.canonical(space.sample(rng, N_SAMPLED))
        genotype = tuple(drawn[0].tolist()) if text is None else space.from_json(text)
        corners = np.array([[0] * len(space.choices), [n - 1 for n in space.n_options]])
        rows = np.concatenate([corners[space.is_valid(corners)], drawn]).tolist()
        sampled = [counts(space.architecture(tuple(row))) for row in rows]
        sample = {
            "params": sorted(found.params for found in sampled),
            "macs": sorted(found.macs for found in sampled),
        }
        return cls(space, genotype, layers_of(space.architecture(genotype)), sample)

    def total(self, metric: str) -> int:
        """Sum of `params` or `macs` over the blocks of the network."""
        return sum(getattr(layer.counts, metric) for layer in self.layers)

    def record(self, name: str) -> dict[str, Any]:
        """As plain data."""
        import json

        from hwnas.spaces.architecture import block_data

        space = self.space
        return {
            "space": name,
            "fingerprint": space.fingerprint,
            "input_shape": list(space.architecture(self.genotype).input_shape),
            "input_type": space.input_type,
            "choices": {choice.name: list(choice.options) for choice in space.choices},
            "constraints": [constraint.name for constraint in space.constraints],
            "n_genotypes": space.size,
            "n_networks": space.n_architectures,
            "sample": {
                metric: dict(zip(("min", "median", "max"), _range(values), strict=True))
                for metric, values in self.sample.items()
            }
            | {"n": len(self.sample["macs"])},
            "genotype": json.loads(space.to_json(self.genotype)),
            "params": self.total("params"),
            "macs": self.total("macs"),
            "blocks": [
                block_data(layer.block)
                | {
                    "in_shape": list(layer.in_shape),
                    "out_shape": list(layer.counts.out_shape),
                    "params": layer.counts.params,
                    "macs": layer.counts.macs,
                }
                for layer in self.layers
            ],
        }


def _range(values: Sequence[int]) -> tuple[int, int, int]:
    return values[0], values[len(values) // 2], values[-1]


def _show(name: str, found: _Found) -> None:
    from hwnas.spaces.architecture import fields_text, shape_text

    space = found.space
    print_table(
        f"{name}: choices",
        ("choice", "options"),
        [(c.name, ", ".join(map(str, c.options))) for c in space.choices],
    )
    networks = space.n_architectures
    lines = [
        f"genotypes: {space.size:,}" + ("" if networks is None else f"; networks: {networks:,}"),
        *(f"constraint: {constraint.name}" for constraint in space.constraints),
    ]
    for metric, values in found.sample.items():
        low, median, high = _range(values)
        told = f"{metric} of {len(values)} networks: {low:,} to {high:,}, median {median:,}"
        lines.append(told)
    typer.echo("\n".join(lines) + "\n")
    print_table(
        f"a network: {found.total('params'):,} params, {found.total('macs'):,} MACs",
        ("block", "fields", "output", "params", "MACs"),
        [
            (
                type(layer.block).__name__,
                fields_text(layer.block),
                shape_text(layer.counts.out_shape),
                f"{layer.counts.params:,}",
                f"{layer.counts.macs:,}",
            )
            for layer in found.layers
        ],
    )
    typer.echo(f"--genotype '{space.to_json(found.genotype)}'")
