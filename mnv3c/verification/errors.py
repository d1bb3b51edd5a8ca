"""How far the integer network is from the float one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph
from mnv3c.reference import floating
from mnv3c.verification.inputs import Sample, real
from mnv3c.verification.report import FloatError


def without_softmax(network: Graph) -> Graph:
    """The float graph with its outputs as the library has them: a softmax at the end is left out."""
    last = {n.output: n for n in final_softmaxes(network)}
    outputs = tuple(last[o].inputs[0] if o in last else o for o in network.outputs)
    return network.replace(nodes=tuple(n for n in network.nodes if n.output not in last), outputs=outputs)


def final_softmaxes(network: Graph) -> tuple[f.Softmax, ...]:
    """What ``without_softmax`` leaves out: what only the caller reads, unless a detection does."""
    if "detection" in network.meta:
        return ()
    return tuple(
        n
        for n in network.nodes
        if isinstance(n, f.Softmax) and n.output in network.outputs and not network.consumers(n.output)
    )


def float_errors(
    integer: Graph, network: Graph, samples: Sequence[Sample], results: Sequence[Sequence[np.ndarray]]
) -> tuple[FloatError, ...]:
    """One report an output, over the samples that have a float input; images alone if there are any.

    Args:
        results: the integer network's outputs, for each sample.
    """
    usable = [(s, r) for s, r in zip(samples, results, strict=True) if s.network is not None]
    if any(s.source == "images" for s, _ in usable):
        usable = [(s, r) for s, r in usable if s.source == "images"]
    # What a detector's library gives is no output of the float network.
    detects = "detection" in network.meta
    network = without_softmax(network)
    if not usable or detects or len(integer.outputs) != len(network.outputs):
        return ()
    wanted = [
        floating.run(network, {network.inputs[0]: s.network}) for s, _ in usable if s.network is not None
    ]
    reports = []
    for i, name in enumerate(integer.outputs):
        got = np.stack([real(integer.tensor(name), r[i]) for _, r in usable])
        want = np.stack([w[network.outputs[i]] for w in wanted])
        reports.append(compare(name, usable[0][0].source, want, got))
    return tuple(reports)


def compare(name: str, source: str, want: np.ndarray, got: np.ndarray) -> FloatError:
    """``want`` and ``got`` are real ``[N, H, W, C]``; see ``FloatError``."""
    a = want.reshape(len(want), -1).astype(np.float64)
    b = got.reshape(len(got), -1).astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.divide((a * b).sum(axis=1), lengths, out=np.ones(len(a)), where=lengths > 0)
    noise, signal = float(((a - b) ** 2).sum()), float((a**2).sum())
    sqnr = 10.0 * np.log10(signal / noise) if noise > 0 and signal > 0 else float("inf")
    agreement = (want.argmax(axis=-1) == got.argmax(axis=-1)).mean()
    return FloatError(name, source, len(a), float(cosine.mean()), float(sqnr), float(agreement))
