"""Trained weights for a zoo network: reading the file, finding the layers in it, checking shapes."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.zoo.architecture import Architecture, has_expand
from mnv3c.frontend.zoo.layers import BatchNorm, LayerShape, LayerWeights, Weights, layer_shapes
from mnv3c.frontend.zoo.torch_file import read_torch

State = dict[str, np.ndarray]
# Keys of a layer: its convolution and its batch norm (empty where it has none).
Keys = dict[str, tuple[str, str]]
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Loaded:
    """Weights of a network with what their file says about it.

    Attributes:
        architecture: as asked for; expansions and head as in the file where a width rounds them differently.
        weights: of every layer.
        padding: that these weights were trained with.
        naming: ``torchvision``, ``timm`` or ``mnv3c``.
        input_affine: the normalisation of RGB / 255 they were trained with.
        sha256: of the file, in hex.
    """

    architecture: Architecture
    weights: Weights
    padding: str
    naming: str
    input_affine: dict[str, list[float]]
    sha256: str


def load_weights(path: Path, a: Architecture, classes: int | None, padding: str | None) -> Loaded:
    """Read a state dict and fit it to an architecture.

    Three namings are known: torchvision's (``features.0.0.weight``), timm's (``conv_stem.weight``) and the
    layer names of this zoo (``stem.weight``, ``block0.depthwise.bias``). Padding is torch's symmetric one
    unless ``padding`` or a file name that begins with ``tf_`` (timm's ports from TensorFlow) says ``tf``.
    Batch norm has an epsilon of 0.001 in TensorFlow and torchvision's MobileNetV3, of 0.00001 in
    torchvision's MobileNetV2 and timm's own weights.

    Raises:
        Mnv3cError: an unreadable file, unknown names, missing tensors or wrong shapes.
    """
    place = str(path)
    state = {k: v for k, v in read_state(path).items() if not k.endswith("num_batches_tracked")}
    naming, keys = _naming(state, a, place)
    ported = naming == "timm" and path.name.startswith("tf_")
    padding = padding or ("tf" if ported else "torch")
    a = _adapt(a, state, keys)
    lite = a.segmenter is not None and a.segmenter.lite
    logits = "high" if lite else "score1.project" if a.detector else "classifier"
    have = _array(state, keys[logits][0] + ".weight", place).shape[0]
    if a.detector is not None:
        have = have // a.detector.anchors_a_pixel(1) - 1
    if classes not in (None, have):
        raise Mnv3cError(f"the weights have {have} classes, {classes} are asked for", place)
    epsilon = 1e-3 if padding == "tf" or (naming == "torchvision" and a.head) else 1e-5
    weights = {s.name: _layer(s, keys[s.name], state, epsilon, place) for s in layer_shapes(a, have)}
    used = {name for layer in weights for name in _used(keys[layer], state)}
    if unused := sorted(set(state) - used):
        raise Mnv3cError(
            f"{len(unused)} tensors do not belong to this network, such as {unused[0]!r}; "
            "are the weights of another variant?",
            place,
        )
    mean, deviation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # ImageNet, as torchvision has them
    if naming == "mnv3c" or padding == "tf":
        mean, deviation = [0.5] * 3, [0.5] * 3
    affine = {
        "scale": [1.0 / d for d in deviation],
        "shift": [-m / d for m, d in zip(mean, deviation, strict=True)],
    }
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Loaded(a, weights, padding, naming, affine, digest)


def read_state(path: Path) -> State:
    """Tensors of a ``.npz``, ``.safetensors``, ``.pth`` or ``.pt`` file by name."""
    place = str(path)
    if not path.is_file():
        raise Mnv3cError("no such file", place)
    suffix = path.suffix.lower()
    if suffix in (".pth", ".pt"):
        return read_torch(path)
    try:
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {k: archive[k] for k in archive.files}
        if suffix == ".safetensors":
            from safetensors.numpy import load_file

            return dict(load_file(path))
    except OSError as error:
        raise Mnv3cError(f"cannot read the file: {error.strerror or 'damaged'}", place) from None
    except (ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise Mnv3cError(f"damaged, or not a {suffix} file ({str(error)[:120]})", place) from None
    except Exception as error:
        # safetensors raises its own SafetensorError, a plain Exception.
        raise Mnv3cError(f"damaged, or not a {suffix} file ({str(error)[:120]})", place) from None
    raise Mnv3cError("weights must be .npz, .pth, .pt or .safetensors", place)


def _torchvision(a: Architecture) -> Keys:
    keys = {"stem": ("features.0.0", "features.0.1")}
    for i, b in enumerate(a.blocks):
        parts = [*(["expand"] if has_expand(a, i) else []), "depthwise", *(["se"] if b.se else []), "project"]
        for j, part in enumerate(parts):
            prefix = f"features.{i + 1}.block.{j}"
            if part == "se":
                keys[f"block{i}.squeeze"] = (f"{prefix}.fc1", "")
                keys[f"block{i}.excite"] = (f"{prefix}.fc2", "")
            else:
                keys[f"block{i}.{part}"] = (f"{prefix}.0", f"{prefix}.1")
    n = len(a.blocks) + 1
    keys["last"] = (f"features.{n}.0", f"features.{n}.1")
    return keys | {"head": ("classifier.0", ""), "classifier": ("classifier.3", "")}


def _torchvision_v2(a: Architecture) -> Keys:
    keys = {"stem": ("features.0.0", "features.0.1")}
    for i in range(len(a.blocks)):
        prefix = f"features.{i + 1}.conv"
        parts = [*(["expand"] if has_expand(a, i) else []), "depthwise"]
        for j, part in enumerate(parts):
            keys[f"block{i}.{part}"] = (f"{prefix}.{j}.0", f"{prefix}.{j}.1")
        keys[f"block{i}.project"] = (f"{prefix}.{len(parts)}", f"{prefix}.{len(parts) + 1}")
    n = len(a.blocks) + 1
    return keys | {"last": (f"features.{n}.0", f"features.{n}.1"), "classifier": ("classifier.1", "")}


def _timm(a: Architecture) -> Keys:
    keys = {"stem": ("conv_stem", "bn1")}
    stage, index = 0, 0
    for i, b in enumerate(a.blocks):
        # A stage of timm is a run of blocks with the same output channels.
        if i and b.out != a.blocks[i - 1].out:
            stage, index = stage + 1, 0
        prefix = f"blocks.{stage}.{index}"
        names = ("conv_pw", "conv_dw", "conv_pwl") if has_expand(a, i) else ("", "conv_dw", "conv_pw")
        parts = [(p, n) for p, n in zip(("expand", "depthwise", "project"), names, strict=True) if n]
        for norm, (part, name) in enumerate(parts, 1):
            keys[f"block{i}.{part}"] = (f"{prefix}.{name}", f"{prefix}.bn{norm}")
        if b.se:
            keys[f"block{i}.squeeze"] = (f"{prefix}.se.conv_reduce", "")
            keys[f"block{i}.excite"] = (f"{prefix}.se.conv_expand", "")
        index += 1
    if not a.head:
        return keys | {"last": ("conv_head", "bn2"), "classifier": ("classifier", "")}
    prefix = f"blocks.{stage + 1}.0"
    keys["last"] = (f"{prefix}.conv", f"{prefix}.bn1")
    return keys | {"head": ("conv_head", ""), "classifier": ("classifier", "")}


def _own(a: Architecture) -> Keys:
    return {s.name: (s.name, "") for s in layer_shapes(a, 1)}


def _naming(state: Mapping[str, np.ndarray], a: Architecture, place: str) -> tuple[str, Keys]:
    candidates = {"mnv3c": _own(a)}
    classifier = a.segmenter is None and a.detector is None
    if classifier and a.last and all(b.kind == "inverted" for b in a.blocks):
        torchvision = _torchvision if a.head else _torchvision_v2
        candidates = {"torchvision": torchvision(a), "timm": _timm(a), **candidates}
    found = {n: sum(f"{conv}.weight" in state for conv, _ in k.values()) for n, k in candidates.items()}
    best = max(found, key=lambda n: found[n])
    if not found[best]:
        some = ", ".join(repr(k) for k in list(state)[:3]) or "none"
        raise Mnv3cError(f"names are neither torchvision's, timm's nor mnv3c's (tensors: {some})", place)
    return best, candidates[best]


def _adapt(a: Architecture, state: Mapping[str, np.ndarray], keys: Keys) -> Architecture:
    """Expansions and head of the file: implementations round them differently at widths other than 1."""

    def out(layer: str, default: int) -> int:
        weight = state.get(keys[layer][0] + ".weight")
        return int(weight.shape[0]) if weight is not None and weight.ndim in (2, 4) else default

    blocks = [
        replace(b, expansion=out(f"block{i}.expand", b.expansion)) if has_expand(a, i) else b
        for i, b in enumerate(a.blocks)
    ]
    last = out("last", a.last) if a.last else 0
    return replace(a, blocks=tuple(blocks), last=last, head=out("head", a.head) if a.head else 0)


def _array(state: Mapping[str, np.ndarray], key: str, place: str) -> np.ndarray:
    if key not in state:
        raise Mnv3cError(f"tensor {key!r} is missing", place)
    value = state[key]
    if value.dtype.kind not in "fiu" or value.ndim == 0 or not bool(np.isfinite(value).all()):
        raise Mnv3cError(f"tensor {key!r} does not hold finite numbers", place)
    return value.astype(np.float32)


def _used(keys: tuple[str, str], state: Mapping[str, np.ndarray]) -> Iterator[str]:
    conv, norm = keys
    yield f"{conv}.weight"
    yield f"{conv}.bias"
    if norm:
        yield from (f"{norm}.{s}" for s in _STATISTICS)


def _layer(
    shape: LayerShape, keys: tuple[str, str], state: Mapping[str, np.ndarray], epsilon: float, place: str
) -> LayerWeights:
    conv, norm = keys
    weight = _array(state, f"{conv}.weight", place)
    if weight.ndim == 2 and shape.weight[2:] == (1, 1):
        weight = weight[:, :, None, None]
    if weight.shape != shape.weight:
        raise Mnv3cError(
            f"tensor {conv + '.weight'!r} ({shape.name}) has shape {list(weight.shape)}, "
            f"the network needs {list(shape.weight)}",
            place,
        )
    bias = _vector(state, f"{conv}.bias", shape, place) if f"{conv}.bias" in state else None
    if not norm or f"{norm}.running_mean" not in state:
        # Without a batch norm there must be a bias: a checkpoint that lacks both is incomplete.
        missing = f"{norm}.running_mean" if norm and bias is None else f"{conv}.bias"
        return LayerWeights(weight, bias if bias is not None else _vector(state, missing, shape, place))
    gamma, beta, mean, variance = (_vector(state, f"{norm}.{s}", shape, place) for s in _STATISTICS)
    if bool((variance < 0).any()):
        raise Mnv3cError(f"tensor {norm + '.running_var'!r} is negative", place)
    return LayerWeights(weight, bias, BatchNorm(gamma, beta, mean, variance, epsilon))


def _vector(state: Mapping[str, np.ndarray], key: str, shape: LayerShape, place: str) -> np.ndarray:
    value = _array(state, key, place)
    if value.shape != (shape.out,):
        raise Mnv3cError(
            f"tensor {key!r} ({shape.name}) has shape {list(value.shape)}, the network needs [{shape.out}]",
            place,
        )
    return value
