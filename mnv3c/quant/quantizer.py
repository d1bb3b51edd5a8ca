"""Post-training quantisation: float graph and calibration inputs to an integer graph of primitives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.images import Normalization, graph_normalization, random_inputs
from mnv3c.ir import float_ops as f
from mnv3c.ir.detection import attach
from mnv3c.ir.graph import Graph, Node
from mnv3c.ir.verify import verify
from mnv3c.quant import batched, door, spatial
from mnv3c.quant.groups import Group, group, residual_classes
from mnv3c.quant.importance import importance
from mnv3c.quant.lower import final_conv, lower
from mnv3c.quant.origin import AS_TRAINED, trained_quantized_by_tensor
from mnv3c.quant.prepare import bypass, prepare, softmaxes_of_argmax, wide_tensors
from mnv3c.quant.state import Options, Progress, State
from mnv3c.quant.weights import check_finite
from mnv3c.verification.errors import final_softmaxes, without_softmax

RANDOM_COUNT = 4
# Noise says roughly how large activations get; to fit weights to it would be time spent for nothing.
FOR_NOISE = Options(rounding="nearest", bias_correction=False)
# All images go through the network together; this bounds the memory that takes.
_PIXEL_BUDGET = 64 * 256 * 256
CLIPPING = ("mse", "kl", "minmax")
INPUT_DTYPES = ("int8", "uint8", "float32")
OUTPUT_DTYPES = ("int16", "int8", "float32")


def quantize(
    graph: Graph,
    calibration: Iterable[np.ndarray] | None = None,
    *,
    input_dtype: str = "int8",
    output_dtype: str = "int16",
    normalization: Normalization | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    raised: frozenset[str] = frozenset(),
    clipping: str | None = None,
) -> Graph:
    """Quantise a float graph of one input.

    Args:
        graph: float graph (``float_ops``), well formed.
        calibration: inputs of that graph, float ``(H, W, C)``: after normalisation and after the
            ``input_affine`` that the front end took off the model (``images.network_input`` makes
            them). ``None``: random images, and ``meta["random_calibration"]`` says so.
        input_dtype: what the library takes. ``int8``: the graph's input, symmetric. ``uint8``: camera
            bytes, with ``normalization`` and ``input_affine`` folded into the first convolution.
            ``float32``: what the model file takes, with ``input_affine`` folded in.
        output_dtype: ``int16`` (convolutions only; others give int8), ``int8`` or ``float32``.
        normalization: bytes to what the model file takes; used by ``uint8``, and by random images.
        options: how to quantise; by default the best known for a network of this kind (``origin``).
        progress: called with a step's name, how many are done and how many there are.
        seed: of all sampling; the same seed gives the same bits.
        clipping: how ranges are cut, of ``CLIPPING``, instead of what ``options`` say.
        raised: tensors to store in 16 bits, of those that ``mixed.candidates`` gives.

    Returns:
        A verified graph of primitives; ``meta`` adds ``quantization`` (facts and settings),
        ``notes`` and, without data, ``random_calibration``.

    Raises:
        Mnv3cError: bad calibration data, non-finite values, or a node with no integer form.
    """
    for value, allowed in ((input_dtype, INPUT_DTYPES), (output_dtype, OUTPUT_DTYPES)):
        if value not in allowed:
            raise Mnv3cError(f"dtype {value} is not one of {', '.join(allowed)}", graph.name)
    if clipping not in (None, *CLIPPING):
        raise Mnv3cError(f"clipping {clipping} is not one of {', '.join(CLIPPING)}", graph.name)
    graph, notes = _prepare(graph)
    graph = prepare(graph)
    if options is None:
        options = Options() if calibration is not None else FOR_NOISE
        if trained_quantized_by_tensor(graph):
            options = AS_TRAINED
            notes.append(
                "every weight tensor lies on one 8-bit grid: the network was trained to be quantised so,"
                " and activations are quantised by tensor too"
            )
    if clipping is not None:
        options = replace(options, ranges=clipping)
    batch, count = _stack(graph, calibration, normalization, seed)
    if count > len(batch):
        notes.append(f"{len(batch)} of {count} calibration inputs used: inputs of this size take much memory")
    name = graph.inputs[0]
    state = State(door.with_inner_input(graph, input_dtype), options, np.random.default_rng(seed))
    door.lower_input(state, batch, name, input_dtype, normalization)
    state.wide = wide_tensors(state.source, output_dtype)
    groups = group(state.source, state.wide)
    state.raised = raised
    if options.ranges == "mse" and calibration is not None:
        state.importance.update(importance(state.source, batch, np.random.default_rng((seed, 1))))
    if options.per_channel and options.residual_share:
        state.profiles.update(residual_profiles(state.source, groups, batch, options.residual_share))
    _walk(state, groups, progress)
    facts: dict[str, object] = {
        "method": asdict(options),
        "calibration_images": len(batch),
        "seed": seed,
        "input_dtype": input_dtype,
        "output_dtype": output_dtype,
        "normalization": None if normalization is None else asdict(normalization),
        "signal_to_noise_db": {name: round(value, 2) for name, value in state.noise.items()},
    }
    if normalization is not None:
        facts["normalization"] = {"scale": list(normalization.scale), "shift": list(normalization.shift)}
    meta = {**graph.meta, "quantization": facts, "notes": [*_notes(graph), *notes]}
    if calibration is None:
        meta["random_calibration"] = True
    result = Graph(graph.name, tuple(state.nodes), state.tensors, (name,), graph.outputs, meta)
    return verify(door.finish(attach(result.replace()), output_dtype))


def _notes(graph: Graph) -> list[str]:
    notes = graph.meta.get("notes", [])
    return [str(n) for n in notes] if isinstance(notes, list | tuple) else [str(notes)]


def _prepare(graph: Graph) -> tuple[Graph, list[str]]:
    """Checks, and the graph without a softmax that changes no order."""
    if len(graph.inputs) != 1:
        raise Mnv3cError(f"{len(graph.inputs)} inputs; exactly one is supported", graph.name)
    notes = []
    for node in graph.nodes:
        if isinstance(node, f.Conv2d):
            check_finite(node)
    for node in final_softmaxes(graph):
        notes.append(f"softmax {node.name} left out: the library returns logits, whose order is the same")
    graph = without_softmax(graph)
    for node in softmaxes_of_argmax(graph):
        notes.append(f"softmax {node.name} left out: the argmax of what it reads is the same")
        graph = bypass(graph, node)
    if graph.inputs[0] in graph.outputs or not graph.nodes:
        raise Mnv3cError("the network computes nothing", graph.name)
    return graph, notes


def _stack(
    graph: Graph, calibration: Iterable[np.ndarray] | None, normalization: Normalization | None, seed: int
) -> tuple[np.ndarray, int]:
    """The calibration batch ``(N, H, W, C)`` float32, and how many inputs there were."""
    tensor = graph.tensor(graph.inputs[0])
    if calibration is None:
        pixel_map = graph_normalization(graph, normalization)
        return random_inputs(tensor.shape, RANDOM_COUNT, seed, pixel_map), RANDOM_COUNT
    most = max(1, _PIXEL_BUDGET // (tensor.shape[0] * tensor.shape[1]))
    used: list[np.ndarray] = []
    count = 0
    for item in calibration:
        count += 1
        if len(used) >= most:
            continue
        value = np.asarray(item, np.float32)
        if value.shape != tensor.shape:
            raise Mnv3cError(
                f"calibration input {count - 1} has shape {value.shape}, the network takes {tensor.shape}",
                tensor.name,
            )
        if not np.isfinite(value).all():
            raise Mnv3cError(f"calibration input {count - 1} holds NaN or infinity", tensor.name)
        used.append(value)
    if not used:
        raise Mnv3cError("no calibration inputs", tensor.name)
    return np.stack(used), count


def _walk(state: State, groups: tuple[Group, ...], progress: Progress | None) -> None:
    last_use = {name: i for i, g in enumerate(groups) for name in g.inputs}
    for position, each in enumerate(groups):
        for node in each.nodes:
            args = [state.exact[i] for i in node.inputs]
            state.exact[node.output] = batched.float_node(state.source, node, args)
        nodes = _lower(state, each)
        state.emit(*nodes)
        values = state.execute(nodes, {i: state.stored[i] for i in each.inputs})
        state.stored[each.output] = values[each.output]
        state.measure(each.output)
        for node in each.nodes[:-1]:
            state.exact.pop(node.output, None)
        state.release(each, last_use, position)
        if progress is not None:
            progress("quantise", position + 1, len(groups))


def _lower(state: State, each: Group) -> list[Node]:
    head = each.head
    if each.output in state.wide and isinstance(head, f.Conv2d):
        return final_conv(state, each, head)
    if each.output in state.wide and isinstance(head, f.Add):
        return spatial.wide_add(state, head)
    return lower(state, each)


def residual_profiles(
    graph: Graph, groups: tuple[Group, ...], batch: np.ndarray, alpha: float
) -> dict[str, np.ndarray]:
    """Proportions of the channels' scales for all tensors that residual adds tie together."""
    classes = residual_classes(graph, groups)
    wanted = {name for each in classes for name in each}
    reach: dict[str, np.ndarray] = {}
    for chunk in batched.chunks(len(batch), 1 << 17):
        for name, value in batched.trace_float(graph, batch[chunk]):
            if name in wanted:
                peak = np.ptp(value, axis=(0, 1, 2))
                reach[name] = np.maximum(reach.get(name, 0.0), peak)
    result = {}
    for each in classes:
        shares = [reach[name] / max(float(reach[name].max()), 1e-30) for name in sorted(each)]
        profile = np.maximum(np.max(shares, axis=0), 1 / 64) ** alpha
        result.update({name: profile.astype(np.float64) for name in each})
    return result
