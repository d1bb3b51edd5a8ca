"""Which tensors gain most from 16 bits: ``--mixed``.

Chosen greedily by what each tensor's rounding alone does to the outputs, on calibration images that made
no scale, against the multiply-accumulates that would read or write 16 bits; then kept only if the network so
quantised is better, on the same images, by more than a threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.ir import float_ops as f
from mnv3c.ir.graph import Graph
from mnv3c.quant import batched
from mnv3c.quant.groups import Group, group, is_gate
from mnv3c.quant.map_derivatives import before_argmax
from mnv3c.quant.prepare import prepare, wide_tensors
from mnv3c.quant.quantizer import quantize
from mnv3c.quant.sensitivity import tensor_noise
from mnv3c.quant.state import Options, Progress, decibels
from mnv3c.quant.weights import WEIGHT_MAX
from mnv3c.verification.errors import without_softmax
from mnv3c.verification.inputs import library_input, real

LEAST_IMAGES = 6
LEAST_GAIN_DB = 0.3
# Every third image is left out while the tensors are chosen.
_HELD_OUT = 3
_HELD_PIXELS = 24 * 224 * 224
_AT_ONCE = 4
# What a raised tensor costs at least, as a share of the network's work: one kernel more, memory.
_LEAST_COST = 0.01
# Room for the roundings of weights and bias below 2**31.
_ACCUMULATOR = 0.9 * 2.0**31 / 32768


@dataclass(frozen=True)
class Candidate:
    """A tensor that could be stored in 16 bits.

    Attributes:
        noise: its rounding's share of the noise that all candidates' roundings make at the outputs.
        macs: share of the network's multiply-accumulates that would read or write 16 bits, and for which
            there is no vector code.
    """

    name: str
    noise: float
    macs: float

    @property
    def worth(self) -> float:
        return self.noise / (self.macs + _LEAST_COST)


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen and why.

    Attributes:
        asked: how many tensors could be raised at most.
        chosen: the candidates that were tried, best first.
        before_db, after_db: signal to noise of the outputs on images left out, in 8 bits and with the
            chosen tensors in 16; ``None`` if there was nothing to try.
        raised: names of the tensors that were raised: all that were tried, or none.
        reason: why none was; empty if some were.
        trials: the integer graphs that were compared: in 8 bits, and with what was chosen in 16.
    """

    asked: int
    chosen: tuple[Candidate, ...] = ()
    before_db: float | None = None
    after_db: float | None = None
    raised: tuple[str, ...] = ()
    reason: str = ""
    trials: tuple[Graph, Graph] | None = None

    def facts(self) -> dict[str, object]:
        """As ``meta["quantization"]["mixed"]`` states it."""
        rounded = [asdict(c) | {"noise": round(c.noise, 4), "macs": round(c.macs, 4)} for c in self.chosen]
        return {
            "asked": self.asked,
            "tried": rounded,
            "before_db": None if self.before_db is None else round(self.before_db, 2),
            "after_db": None if self.after_db is None else round(self.after_db, 2),
            "tensors": list(self.raised),
            "reason": self.reason,
        }

    def note(self) -> str:
        """One line for people."""
        if not self.raised:
            return f"--mixed raised nothing: {self.reason}"
        return (
            f"in 16 bits: {', '.join(self.raised)}; layers that read or write these run portable kernels, not"
            " vector code"
        )


def quantize_mixed(
    graph: Graph,
    calibration: Iterable[np.ndarray] | None,
    most: int,
    *,
    output_dtype: str = "int16",
    options: Options | None = None,
    clipping: str | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    **settings: Any,
) -> tuple[Graph, Choice]:
    """``quantizer.quantize`` with at most ``most`` tensors in 16 bits, where that pays.

    ``meta["quantization"]["mixed"]`` says what was tried (``Choice.facts``), and so does a note.

    Args:
        settings: further ones of ``quantizer.quantize``.
    """
    inputs = None if calibration is None else [np.asarray(x, np.float32) for x in calibration]
    common: dict[str, Any] = {
        "output_dtype": output_dtype,
        "options": options,
        "clipping": clipping,
        "seed": seed,
    }
    choice = Choice(most, reason="no calibration data to choose by")
    if inputs is not None:
        choice = choose_raised(graph, inputs, most, common, progress)
    raised = frozenset(choice.raised)
    result = quantize(graph, inputs, raised=raised, progress=progress, **common, **settings)
    quantization, notes = result.meta["quantization"], result.meta["notes"]
    assert isinstance(quantization, Mapping) and isinstance(notes, list)
    meta = {
        **result.meta,
        "quantization": {**quantization, "mixed": choice.facts()},
        "notes": [*notes, choice.note()],
    }
    return result.replace(meta=meta), choice


def choose_raised(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    most: int,
    settings: Mapping[str, Any],
    progress: Progress | None = None,
) -> Choice:
    """Choose at most ``most`` tensors of a float graph.

    Args:
        inputs: calibration inputs, float32 ``(H, W, C)``.
        settings: of ``quantizer.quantize``.
    """
    if len(inputs) < LEAST_IMAGES:
        return Choice(most, reason=f"{len(inputs)} calibration inputs, of at least {LEAST_IMAGES}")
    # Numbers of classes and boxes are no measure; what they are made of is.
    meta = {k: v for k, v in graph.meta.items() if k != "detection"}
    graph = before_argmax(without_softmax(graph.replace(meta=meta)))
    source = prepare(graph)
    wide = wide_tensors(source, settings["output_dtype"])
    groups = group(source, wide)
    names = candidates(source, groups, wide)
    if not names:
        return Choice(most, reason="no tensor of this network can have 16 bits")
    fit = [x for i, x in enumerate(inputs) if i % _HELD_OUT != _HELD_OUT - 1]
    height, width, _ = source.tensor(source.inputs[0]).shape
    count = max(2, _HELD_PIXELS // (height * width))

    def trial(raised: frozenset[str], step: str) -> Graph:
        def tell(_: str, done: int, total: int) -> None:
            if progress is not None:
                progress(step, done, total)

        return quantize(graph, fit, raised=raised, progress=tell, **settings)

    base = trial(frozenset(), "try 8 bits")
    shape = source.tensor(source.inputs[0]).shape
    held = np.stack([x for x in inputs[_HELD_OUT - 1 :: _HELD_OUT] if x.shape == shape][:count])
    noises = tensor_noise(source, base, held, names, progress)
    total = sum(noises.values())
    if not total:
        return Choice(most, reason="no tensor that can have 16 bits loses anything")
    share = mac_shares(source, groups, names)
    found = [Candidate(name, noises[name] / total, share[name]) for name in noises]
    best = tuple(sorted(found, key=lambda c: (-c.worth, c.name))[:most])
    before = outputs_db(source, base, held)
    try:
        mixed = trial(frozenset(c.name for c in best), "try 16 bits")
    except Mnv3cError as error:
        return Choice(most, best, before, reason=str(error))
    after = outputs_db(source, mixed, held)
    if after - before < LEAST_GAIN_DB:
        reason = f"{after - before:+.2f} dB on images left out; {LEAST_GAIN_DB} would pay"
        return Choice(most, best, before, after, reason=reason)
    return Choice(most, best, before, after, tuple(c.name for c in best), trials=(base, mixed))


def candidates(graph: Graph, groups: Sequence[Group], wide: frozenset[str]) -> tuple[str, ...]:
    """Tensors that operators of the integer graph can write and read in 16 bits.

    Written by a convolution alone or before an h-swish or a residual add, by an add, an SE gate or a
    global pool, none with a clip; read by convolutions, adds and global pools alone.
    """
    return tuple(
        g.output
        for g in groups
        if g.output not in wide
        and g.output not in graph.outputs
        and _writes16(graph, g)
        and _read16(graph, g.output, wide)
    )


def _writes16(graph: Graph, g: Group) -> bool:
    if g.activation is not None:
        return isinstance(g.head, f.Conv2d) and g.activation.kind == "hard_swish"
    if isinstance(g.head, f.Multiply):
        return is_gate(graph, g.head.inputs[1])
    return isinstance(g.head, f.Conv2d | f.Add | f.GlobalAveragePool)


def _read16(graph: Graph, name: str, wide: frozenset[str]) -> bool:
    users = graph.consumers(name)
    for user in users:
        if isinstance(user, f.Conv2d):
            weight = np.abs(user.weight.astype(np.float64))
            peak = np.maximum(weight.max(axis=(1, 2, 3)), 1e-30)
            if (weight.sum(axis=(1, 2, 3)) / peak * WEIGHT_MAX).max() > _ACCUMULATOR:
                return False
        elif isinstance(user, f.Add):
            if user.output in wide:
                return False
        elif not isinstance(user, f.GlobalAveragePool):
            return False
    height, width, _ = graph.tensor(name).shape
    return bool(users) and height * width < 2**15


def mac_shares(graph: Graph, groups: Sequence[Group], names: Sequence[str]) -> dict[str, float]:
    """Of each tensor, the share of all multiply-accumulates in convolutions that write or read it."""
    macs = {
        node.name: graph.tensor(node.output).elements * node.weight[0].size
        for node in graph.nodes
        if isinstance(node, f.Conv2d)
    }
    total = max(sum(macs.values()), 1)
    writers = {g.output: [n.name for n in g.nodes] for g in groups}
    readers = {name: [u.name for u in graph.consumers(name)] for name in names}
    return {name: sum(macs.get(n, 0) for n in (*writers[name], *readers[name])) / total for name in names}


def outputs_db(network: Graph, integer: Graph, batch: np.ndarray) -> float:
    """Signal to noise of the first output, each pixel's mean taken off where there are channels.

    Args:
        batch: network inputs, float32 ``(N, H, W, C)``.
    """
    signal = noise = 0.0
    for chunk in (batch[i : i + _AT_ONCE] for i in range(0, len(batch), _AT_ONCE)):
        want = batched.run_float(network, chunk)
        got = batched.run_integer(integer, library_input(integer, network, chunk))
        signal += _power(want)
        noise += _power(real(integer.tensor(integer.outputs[0]), got) - want)
    return decibels(signal, noise)


def _power(y: np.ndarray) -> float:
    wide = y.astype(np.float64)
    if wide.shape[3] > 1:
        wide -= wide.mean(axis=3, keepdims=True)
    return float(np.square(wide).sum())
