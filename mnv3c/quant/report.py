"""What quantisation did to a network: layers and histograms, as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv3c.codegen.render import render
from mnv3c.errors import Mnv3cError
from mnv3c.ir.graph import Graph
from mnv3c.quant import batched
from mnv3c.quant.sensitivity import Sensitivity
from mnv3c.quant.state import signal_to_noise
from mnv3c.verification.errors import without_softmax
from mnv3c.verification.inputs import library_input, real

NOISELESS_DB = 200.0
_BINS = 96
_WIDTH, _HEIGHT = 384, 84
_DEPTH_HEIGHT, _DEPTH_DB = 150, 50
_GOOD_DB, _FAIR_DB = 25.0, 15.0
_BAR = 260  # pixels of the longest
_SHOWN = 25  # rows before the fold
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Layer:
    """A tensor that both networks have, on the same inputs.

    Attributes:
        name, shape, dtype: of the integer tensor.
        signal_to_noise_db: of the integers' reals against the float network's values.
        low, high: ends of the histograms.
        before, after: counts of float values and of the integers' reals, ``[_BINS]``.
    """

    name: str
    shape: tuple[int, int, int]
    dtype: str
    signal_to_noise_db: float
    low: float
    high: float
    before: np.ndarray
    after: np.ndarray


def layers(
    network: Graph, integer: Graph, batch: np.ndarray, progress: Progress | None = None
) -> tuple[Layer, ...]:
    """Compare every stored tensor, in the order of execution, errors of earlier layers included.

    Args:
        batch: network inputs, float32 ``(N, H, W, C)``; all of their tensors are held in memory.
    """
    network = without_softmax(network)
    exact = dict(batched.trace_float(network, batch))
    values = {integer.inputs[0]: library_input(integer, network, batch)}
    found = []
    for done, node in enumerate(integer.nodes, 1):
        values[node.output] = batched.integer_node(integer, node, [values[i] for i in node.inputs])
        tensor = integer.tensor(node.output)
        if tensor.name in exact and (tensor.quant is not None or tensor.dtype == "float32"):
            got = np.stack([real(tensor, v) for v in values[tensor.name]])
            found.append(_layer(tensor.name, tensor.shape, tensor.dtype, exact[tensor.name], got))
        if progress is not None:
            progress("compare layers", done, len(integer.nodes))
    return tuple(found)


def _layer(name: str, shape: tuple[int, int, int], dtype: str, want: np.ndarray, got: np.ndarray) -> Layer:
    low = float(min(want.min(), got.min()))
    high = float(max(want.max(), got.max()))
    if high <= low:
        high = low + 1.0
    before, after = (np.histogram(v, _BINS, (low, high))[0] for v in (want, got))
    # Channels that are zero in both networks have no signal, and no noise either.
    ratio = signal_to_noise(want, got - want) if (got != want).any() else NOISELESS_DB
    return Layer(name, shape, dtype, ratio, low, high, before, after)


def write(
    path: Path,
    title: str,
    facts: Mapping[str, str],
    found: Sequence[Layer],
    alone: Sequence[Sensitivity],
) -> None:
    """Write the page.

    Args:
        facts: name to value, for the table at the top.
        alone: what each layer's quantisation does by itself, worst first.

    Raises:
        Mnv3cError: the file cannot be written.
    """
    try:
        path.write_text(page(title, facts, found, alone), encoding="utf-8")
    except OSError as error:
        raise Mnv3cError(f"cannot write: {error.strerror or error}", str(path)) from None


def page(title: str, facts: Mapping[str, str], found: Sequence[Layer], alone: Sequence[Sensitivity]) -> str:
    """The page's text; the same for the same facts."""
    rows = _losses(alone)
    return render(
        "quantize/page.html.j2",
        title=title,
        facts=list(facts.items()),
        depth=_depth(found),
        alone=[part for part in (rows[:_SHOWN], rows[_SHOWN:]) if part],
        figures=[_figure(layer) for layer in found],
        size={"width": _WIDTH, "height": _HEIGHT},
    )


def _losses(alone: Sequence[Sensitivity]) -> list[dict[str, object]]:
    noises = [10 ** (-s.signal_to_noise_db / 10) for s in alone]
    total, most = sum(noises), max(noises, default=1.0)
    return [
        {
            "name": s.name,
            "what": s.what,
            "decibels": f"{s.signal_to_noise_db:.1f}",
            "agreement": f"{s.agreement:.1%}",
            "share": f"{noise / total:.1%}",
            "width": round(_BAR * noise / most, 1),
        }
        for s, noise in zip(alone, noises, strict=True)
    ]


def _style(decibels: float) -> str:
    return "good" if decibels >= _GOOD_DB else "fair" if decibels >= _FAIR_DB else "poor"


def _depth(found: Sequence[Layer]) -> dict[str, object]:
    """Bars of signal to noise in the order of execution."""
    step = min(24.0, 1200 / max(len(found), 1))
    scale = _DEPTH_HEIGHT / _DEPTH_DB
    bars = []
    for i, layer in enumerate(found):
        height = float(np.clip(layer.signal_to_noise_db, 0.3, _DEPTH_DB)) * scale
        bars.append(
            {
                "name": layer.name,
                "decibels": f"{layer.signal_to_noise_db:.1f}",
                "style": _style(layer.signal_to_noise_db),
                "x": round(i * step + 26, 1),
                "y": round(_DEPTH_HEIGHT - height, 1),
                "width": round(step * 0.75, 1),
                "height": round(height, 1),
            }
        )
    return {
        "width": round(len(found) * step + 30),
        "height": _DEPTH_HEIGHT,
        "bars": bars,
        "ticks": [{"y": _DEPTH_HEIGHT - db * scale, "label": db} for db in range(10, _DEPTH_DB, 10)],
        "first": found[0].name if found else "",
        "last": found[-1].name if found else "",
    }


def _figure(layer: Layer) -> dict[str, object]:
    return {
        "name": layer.name,
        "shape": "×".join(str(n) for n in layer.shape),
        "dtype": layer.dtype,
        "decibels": f"{layer.signal_to_noise_db:.1f}",
        "style": _style(layer.signal_to_noise_db),
        "before": _outline(layer.before),
        "after": _outline(layer.after),
        "low": f"{layer.low:.3g}",
        "high": f"{layer.high:.3g}",
    }


def _outline(counts: np.ndarray) -> str:
    """A closed outline of bars; heights are logarithmic, or the zeros behind ReLU would hide the rest."""
    heights = np.log1p(counts) / max(float(np.log1p(counts).max()), 1e-9) * _HEIGHT
    width = _WIDTH / len(counts)
    path = [f"M0 {_HEIGHT}"]
    for i, height in enumerate(heights):
        path.append(f"V{_HEIGHT - height:.1f}H{(i + 1) * width:.1f}")
    return "".join(path) + f"V{_HEIGHT}Z"
