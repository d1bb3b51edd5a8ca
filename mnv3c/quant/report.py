"""What quantisation did to a network: layers and histograms, as one self-contained HTML page."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
    rows = "".join(f"<tr><th>{_safe(k)}</th><td>{_safe(v)}</td></tr>" for k, v in facts.items())
    losers = "".join(
        f"<tr><td>{_safe(s.name)}</td><td>{s.what}</td><td>{s.signal_to_noise_db:.1f}</td>"
        f"<td>{s.agreement:.1%}</td></tr>"
        for s in alone
    )
    figures = "".join(_figure(layer) for layer in found)
    return _PAGE.format(title=_safe(title), rows=rows, losers=losers, figures=figures)


def _figure(layer: Layer) -> str:
    shape = "×".join(str(n) for n in layer.shape)
    return (
        f"<figure><figcaption><b>{_safe(layer.name)}</b> {shape} {layer.dtype}, "
        f"{layer.signal_to_noise_db:.1f} dB</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 14}" role="img">'
        f'<path class="before" d="{_outline(layer.before)}"/>'
        f'<path class="after" d="{_outline(layer.after)}"/>'
        f'<text x="0" y="{_HEIGHT + 12}">{layer.low:.3g}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 12}" text-anchor="end">{layer.high:.3g}</text></svg></figure>'
    )


def _outline(counts: np.ndarray) -> str:
    """A closed outline of bars; heights are logarithmic, or the zeros behind ReLU would hide the rest."""
    heights = np.log1p(counts) / max(float(np.log1p(counts).max()), 1e-9) * _HEIGHT
    width = _WIDTH / len(counts)
    path = [f"M0 {_HEIGHT}"]
    for i, height in enumerate(heights):
        path.append(f"V{_HEIGHT - height:.1f}H{(i + 1) * width:.1f}")
    return "".join(path) + f"V{_HEIGHT}Z"


def _safe(text: object) -> str:
    return html.escape(str(text))


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1240px; padding: 0 1em;
  color: #1d2530; background: #fff }}
table {{ border-collapse: collapse; margin: 1em 0 }}
th, td {{ text-align: left; padding: .2em 1em .2em 0; border-bottom: 1px solid #d8dee6;
  font-variant-numeric: tabular-nums }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(360px, 1fr)); gap: 1em }}
figure {{ margin: 0 }} figcaption {{ overflow-wrap: anywhere }} svg {{ width: 100%; background: #f4f6f9 }}
text {{ font-size: 11px; fill: #5b6675 }}
.before {{ fill: #9db7d9 }} .after {{ fill: none; stroke: #c2410c; stroke-width: 1 }}
@media (prefers-color-scheme: dark) {{ body {{ color: #dfe5ec; background: #14181d }}
  svg {{ background: #1d232b }} .before {{ fill: #3f5f8a }} .after {{ stroke: #fb923c }}
  th, td {{ border-color: #333c47 }} }}
</style></head><body>
<h1>{title}</h1>
<table>{rows}</table>
<h2>What each loses alone</h2>
<p>The output's signal to noise, and the share of inputs with the same largest output, when this tensor or
these weights alone are quantised and all else is float. Worst first.</p>
<table><tr><th>layer</th><th>what</th><th>dB</th><th>agreement</th></tr>{losers}</table>
<h2>Values before and after</h2>
<p>Filled: the float network. Line: what the integers stand for, on the same inputs, errors of earlier layers
included. Heights are logarithmic.</p>
<div class="figures">{figures}</div>
</body></html>
"""
