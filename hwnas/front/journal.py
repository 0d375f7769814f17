"""What verification found so far, kept in the run folder, so that nothing is measured twice.

`verified.json` holds a list; each entry is a `Candidate` and the digests of its weights and of its
model's graph. An entry holds while both are as they were, whatever the model says of itself; what
cannot be read is verified again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from torch import nn

from hwnas.delivery.metadata import graph_digest
from hwnas.errors import RunFolderError
from hwnas.front.finalist_weights import load_weights, weights_path
from hwnas.front.verify import Candidate, Trained, onnx_path
from hwnas.spaces.base import Genotype, SearchSpace, SpaceError
from profilers.limited import TEXT_BYTES, read_text

__all__ = ["FrontJournal"]

JOURNAL = "verified.json"


@dataclass(frozen=True)
class _Entry:
    candidate: Candidate
    weights: str
    model: str


class FrontJournal:
    """The verified networks of one run folder.

    Raises:
        RunFolderError: When an entry is added that cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries = {entry.candidate.name: entry for entry in _read(folder / JOURNAL)}

    def get(self, trained: Trained) -> Candidate | None:
        """What was found of a network; None: it was not verified, or is another one by now."""
        entry = self._entries.get(trained.name)
        if entry is None or entry.weights != _weights_digest(trained.network):
            return None
        if entry.model != _model_digest(onnx_path(entry.candidate, self._folder)):
            return None
        is_same = entry.candidate.genotype == trained.genotype
        return entry.candidate if is_same else None

    def others(
        self, genotypes: Collection[Genotype], space: SearchSpace
    ) -> Iterator[tuple[Trained, Candidate]]:
        """What was found of networks of the space that are not among `genotypes`."""
        for entry in self._entries.values():
            candidate = entry.candidate
            if candidate.genotype is None or candidate.genotype in genotypes:
                continue
            try:
                architecture = space.architecture(candidate.genotype)
            except SpaceError:
                continue
            network = load_weights(weights_path(self._folder, candidate.name), architecture)
            if network is None:
                continue
            trained = Trained(
                candidate.name,
                network,
                architecture,
                candidate.genotype,
                candidate.kind,
                candidate.parent,
            )
            if self.get(trained) is not None:
                yield trained, candidate

    def add(self, found: Iterable[tuple[Trained, Candidate]]) -> None:
        """Write down what was found, whole or not at all."""
        for trained, candidate in found:
            self._entries[candidate.name] = _Entry(
                candidate,
                _weights_digest(trained.network),
                _model_digest(onnx_path(candidate, self._folder)) or "",
            )
        text = json.dumps([asdict(entry) for entry in self._entries.values()], indent=1)
        part = self._folder / f"{JOURNAL}.part"
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(self._folder / JOURNAL)
        except OSError as error:
            raise RunFolderError(
                f"cannot write {self._folder / JOURNAL}: {error.strerror or error}"
            ) from None


def _read(path: Path) -> list[_Entry]:
    """The entries; none where the file is missing or damaged."""
    try:
        found = json.loads(read_text(path, TEXT_BYTES))
        return [
            _Entry(_candidate(entry["candidate"]), str(entry["weights"]), str(entry["model"]))
            for entry in found
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


def _candidate(values: dict[str, Any]) -> Candidate:
    names = {field.name for field in fields(Candidate)}
    known = {name: value for name, value in values.items() if name in names}
    genotype = known["genotype"]
    return Candidate(
        **known | {"genotype": None if genotype is None else tuple(map(int, genotype))}
    )


def _weights_digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, values in network.state_dict().items():
        digest.update(name.encode())
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _model_digest(path: Path) -> str | None:
    """Of the model's graph; None where there is no model."""
    try:
        return graph_digest(onnx.load(path, load_external_data=False))
    except (OSError, DecodeError):
        return None
