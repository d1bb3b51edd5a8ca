"""What there is to score: a model, a quantised file or a compiled library, as graphs and engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv3c import api
from mnv3c.errors import Mnv3cError
from mnv3c.evaluate.engines import Engine, float_engine
from mnv3c.images import Normalization
from mnv3c.ir import serialize
from mnv3c.ir.graph import Graph, Shape
from mnv3c.quant import file as quantized_file
from mnv3c.runners.library import Library, open_library
from mnv3c.verification.errors import without_softmax
from mnv3c.verification.inputs import library_inputs, normalization, real

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to score.

    Attributes:
        name: for people.
        integer: integer graph; ``None`` for a float model that was not quantised.
        network: float graph; ``None`` for a model that came quantised.
        library: the compiled library, if that is what was given.
        normalize: bytes to what the model file takes; ``None``: the default.
        notes: what the user should know.
    """

    name: str
    integer: Graph | None
    network: Graph | None
    library: Library | None
    normalize: Normalization | None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> Shape:
        """Of the input."""
        graph = self.network or self.integer
        assert graph is not None
        if len(graph.inputs) != 1:
            raise Mnv3cError(f"{len(graph.inputs)} inputs; images are for one", self.name)
        return graph.tensor(graph.inputs[0]).shape

    def float_engine(self) -> Engine:
        """The float network's scores.

        Raises:
            Mnv3cError: there is no float network.
        """
        if self.network is None:
            raise Mnv3cError("the model comes quantised: there is no float network", "--engine float")
        return float_engine(without_softmax(self.network), self.normalize)

    def library_inputs(self, images: np.ndarray) -> np.ndarray:
        """What the library takes, for bytes ``(N, H, W, C)``."""
        assert self.integer is not None
        return library_inputs(self.integer, self.network, self.normalize, images)

    def scores(self, outputs: np.ndarray) -> np.ndarray:
        """The real numbers that the first output's integers stand for, float32 ``(N, classes)``."""
        assert self.integer is not None
        tensor = self.integer.tensor(self.integer.outputs[0])
        values = outputs.astype(np.float32) if tensor.quant is None else real(tensor, outputs)
        return values.reshape(len(outputs), -1)


def open_subject(
    model: str,
    *,
    calibration: str | Path | None = None,
    quantize: bool = False,
    normalize: Normalization | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Subject:
    """Find out what ``model`` is and load it.

    Args:
        model: a zoo name, a model file, an ``.mnv3q`` file or a library's folder.
        calibration: of a float model that is to be quantised.
        quantize: whether a float model is.
        options: of a model, as ``api.load`` takes them.

    Raises:
        Mnv3cError: it cannot be loaded, or an option does not apply to it.
    """
    tell = progress or (lambda step, done, total: None)
    if Path(model).is_dir():
        _refuse(options, normalize, calibration, "a compiled library says it all itself")
        library = open_library(model)
        integer = serialize.load(library.directory / "reference" / "integer.npz")
        file = library.directory / "reference" / "float.npz"
        network = serialize.load(file) if file.is_file() else None
        return Subject(library.name, integer, network, library, normalization(integer))
    if Path(model).suffix == quantized_file.SUFFIX:
        _refuse(options, normalize, calibration, "the file says it all itself")
        held = quantized_file.load(model)
        return Subject(held.integer.name, held.integer, held.network, None, normalization(held.integer))
    if api.comes_quantized(model):
        _refuse(options, None, calibration, "a model that comes quantised says it all itself")
        integer = api.load_quantized(model)
        return Subject(integer.name, integer, None, None, normalize)
    tell("read the model", 0, 1)
    network = api.load(model, **options)
    tell("read the model", 1, 1)
    if not quantize:
        return Subject(network.name, None, network, None, normalize, api.notes(network))
    integer = api.quantize(
        network, calibration, normalize=normalize, seed=options.get("seed", 0), progress=tell
    )
    return Subject(network.name, integer, network, None, normalize, api.notes(integer))


def _refuse(
    options: Mapping[str, Any], normalize: Normalization | None, calibration: object, why: str
) -> None:
    for option, value in {**options, "normalize": normalize, "calibration": calibration}.items():
        if value is not None and option != "seed":  # the seed has a default
            raise Mnv3cError(why, f"--{option.removeprefix('input_')}")
