"""Each Relax pass: what it leaves behind, and that the module still computes the same (run by TVM)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op

from mnv3c.errors import Mnv3cError
from mnv3c.frontend.lower import EmptyNetwork, lower
from mnv3c.frontend.relax_passes import PASSES, run_passes
from mnv3c.frontend.relax_passes.activations import activations
from mnv3c.frontend.relax_passes.clip_forms import clip_forms
from mnv3c.frontend.relax_passes.expand_batch_norm import expand_batch_norm
from mnv3c.frontend.relax_passes.fold_affine import fold_affine
from mnv3c.frontend.relax_passes.fold_constants import fold_constants
from mnv3c.frontend.relax_passes.fold_padding import fold_padding
from mnv3c.frontend.relax_passes.four_dimensions import four_dimensions
from mnv3c.frontend.relax_passes.global_pool import global_pool
from mnv3c.frontend.relax_passes.input_affine import input_affine
from mnv3c.frontend.relax_passes.partition import partition_activations, partition_operators
from mnv3c.frontend.relax_passes.straight_line import array, bindings, operator, result, shape_of

SHAPE = (1, 4, 5, 6)
RNG = np.random.default_rng(0)


def const(*shape: int, low: float = -1.0, high: float = 1.0) -> Any:
    return relax.const(RNG.uniform(low, high, shape).astype(np.float32), "float32")


def number(value: float) -> Any:
    return relax.const(np.float32(value), "float32")


def module(body: Callable[[Any, Any], Any], shape: tuple[int, ...] = SHAPE) -> Any:
    """A module whose ``main`` computes ``body(emit, x)``."""
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            out = bb.emit_output(body(bb.emit, x))
        bb.emit_func_output(out)
    return bb.get()


def run(mod: Any, x: np.ndarray) -> np.ndarray:
    compiled = relax.VirtualMachine(tvm.compile(mod, target="llvm"), tvm.cpu())
    return compiled["main"](tvm.runtime.tensor(x)).numpy()


def same(before: Any, after: Any, shape: tuple[int, ...] = SHAPE) -> None:
    """Both modules give the same numbers, up to a reshape of the output."""
    x = np.random.default_rng(1).normal(0, 3, shape).astype(np.float32)
    want, got = run(before, x), run(after, x)
    assert got.ravel() == pytest.approx(want.ravel(), rel=1e-4, abs=1e-5)


def operators(mod: Any) -> list[str]:
    """Operators of ``main`` in order; composites by their pattern."""
    names = []
    for _, value in bindings(mod):
        is_composite = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar)
        names.append(str(mod[value.op].attrs["Composite"]) if is_composite else operator(value))
    return [n.removeprefix("relax.").removeprefix("mnv3c.") for n in names]


def alive(mod: Any) -> list[str]:
    """Operators that the output depends on."""
    return operators(fold_constants(mod))


def test_fold_constants() -> None:
    def body(emit: Any, x: Any) -> Any:
        bias = emit(op.reshape(const(4), (1, 4, 1, 1)))
        scale = emit(op.divide(const(1, 4, 1, 1), number(2)))
        return emit(op.multiply(emit(op.add(x, bias)), scale))

    mod = module(body)
    after = fold_constants(mod)
    assert operators(after) == ["add", "multiply"]
    same(mod, after)


def test_clip_forms() -> None:
    mod = module(
        lambda emit, x: emit(op.nn.relu(emit(op.minimum(emit(op.maximum(x, number(-2))), number(1)))))
    )
    after = clip_forms(mod)
    bounds = [tuple(float(a.value) for a in v.args[1:]) for _, v in bindings(after)]
    assert operators(after) == ["clip"] * 3
    assert bounds == [(-2.0, math.inf), (-math.inf, 1.0), (0.0, math.inf)]
    same(mod, after)


def test_clip_forms_recognises_the_importers_kernels() -> None:
    """``emit_te(topi.maximum)`` is what TVM's importer makes of Clip."""
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(SHAPE, "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            low = bb.emit_te(tvm.topi.maximum, x, number(0))
            out = bb.emit_output(bb.emit_te(tvm.topi.minimum, low, number(6)))
        bb.emit_func_output(out)
    after = clip_forms(bb.get())
    assert operators(after) == ["clip", "clip"]
    same(bb.get(), after)


def test_fold_padding() -> None:
    def body(emit: Any, x: Any) -> Any:
        padded = emit(op.nn.pad(x, [0, 0, 0, 0, 0, 1, 2, 3]))
        first = emit(op.nn.conv2d(padded, const(4, 4, 3, 3), padding=[1, 0, 1, 0], strides=[2, 1]))
        second = emit(op.nn.conv2d(padded, const(4, 1, 3, 3), padding=[1, 0, 1, 0], strides=[2, 1], groups=4))
        return emit(op.add(first, second))

    mod = module(body)
    after = fold_padding(mod)
    assert alive(after) == ["nn.conv2d", "nn.conv2d", "add"]
    first, second, _ = (value for _, value in bindings(fold_constants(after)))
    assert [int(p) for p in first.attrs.padding] == [1, 2, 2, 3] and int(second.attrs.groups) == 4
    same(mod, after)


def test_fold_padding_leaves_what_is_not_zeros_around_a_map() -> None:
    def body(emit: Any, x: Any) -> Any:
        ones = emit(op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1], "constant", 1.0))
        channels = emit(op.nn.pad(ones, [0, 0, 0, 4, 0, 0, 0, 0]))
        return emit(op.nn.conv2d(emit(op.nn.conv2d(channels, const(4, 8, 1, 1))), const(4, 4, 1, 1)))

    assert alive(fold_padding(module(body))) == ["nn.pad", "nn.pad", "nn.conv2d", "nn.conv2d"]


def test_expand_batch_norm() -> None:
    def body(emit: Any, x: Any) -> Any:
        statistics = [const(4), const(4), const(4), const(4, low=0.1)]
        normed = emit(op.nn.batch_norm(x, *statistics, axis=1, epsilon=1e-3, training=False))
        dropped = emit(op.nn.dropout(emit(relax.TupleGetItem(normed, 0)), 0.5))
        return emit(relax.TupleGetItem(dropped, 0))

    mod = module(body)
    after = expand_batch_norm(mod)
    assert alive(after) == ["multiply", "add"]
    x = np.random.default_rng(2).normal(0, 1, SHAPE).astype(np.float32)
    values = [array(a).astype(np.float64)[:, None, None] for a in next(bindings(mod))[1].args[1:]]
    gamma, beta, mean, variance = values
    assert run(after, x)[0] == pytest.approx(
        (x[0] - mean) / np.sqrt(variance + 1e-3) * gamma + beta, abs=1e-5
    )


def test_expand_batch_norm_refuses_negative_variance() -> None:
    def body(emit: Any, x: Any) -> Any:
        statistics = [const(4), const(4), const(4), const(4, low=-2, high=-1)]
        return emit(relax.TupleGetItem(emit(op.nn.batch_norm(x, *statistics, axis=1)), 0))

    with pytest.raises(Mnv3cError, match="not positive"):
        expand_batch_norm(module(body))


def test_four_dimensions_turns_matrix_products_into_convolutions() -> None:
    def body(emit: Any, x: Any) -> Any:
        flat = emit(op.reshape(x, (1, 120)))
        product = emit(op.subtract(emit(op.matmul(flat, const(120, 3))), const(3)))
        return emit(op.nn.softmax(emit(op.divide(product, number(4))), axis=1))

    mod = module(body)
    after = four_dimensions(mod)
    assert operators(after) == ["nn.conv2d", "add", "multiply", "nn.softmax"]
    assert all(len(shape_of(var)) == 4 for var, _ in bindings(after))
    same(mod, after)


def test_four_dimensions_doubles_a_tensor_added_to_itself() -> None:
    mod = module(lambda emit, x: emit(op.add(x, x)))
    after = four_dimensions(mod)
    assert operators(after) == ["multiply"]
    same(mod, after)
    for other in (op.multiply, op.subtract, op.divide):
        with pytest.raises(Mnv3cError, match="of a tensor and itself is not supported"):
            four_dimensions(module(lambda emit, x, other=other: emit(other(x, x))))


def test_four_dimensions_makes_a_tensor_of_a_constant_image() -> None:
    mod = module(lambda emit, x: emit(op.subtract(const(5, 6), emit(op.add(x, const(4, 1, 1))))))
    after = four_dimensions(mod)
    assert operators(after) == ["add", "multiply", "reshape", "add"]
    same(mod, after)


def test_four_dimensions_follows_channels_last_data() -> None:
    def body(emit: Any, x: Any) -> Any:
        shifted = emit(op.add(x, const(3)))
        first = emit(op.permute_dims(shifted, [0, 3, 1, 2]))
        conv = emit(op.nn.conv2d(first, const(5, 3, 3, 3)))
        last = emit(op.permute_dims(conv, [0, 2, 3, 1]))
        return emit(op.mean(last, [1, 2], keepdims=False))

    mod = module(body, (1, 6, 7, 3))
    after = four_dimensions(mod)
    assert operators(after) == ["add", "nn.conv2d", "mean"]
    assert shape_of(after["main"].params[0]) == (1, 3, 6, 7)
    assert str(after["main"].attrs["mnv3c.input_layout"]) == "NHWC"
    x = np.random.default_rng(3).normal(0, 1, (1, 6, 7, 3)).astype(np.float32)
    assert run(after, x.transpose(0, 3, 1, 2).copy()).ravel() == pytest.approx(run(mod, x).ravel(), abs=1e-5)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (lambda emit, x: emit(op.permute_dims(x, [0, 1, 3, 2])), "transpose of"),
        (lambda emit, x: emit(op.tanh(x)), "operator relax.tanh is not supported"),
        (lambda emit, x: emit(op.add(x, const(2, 4, 5, 6))), "constant .* is not supported"),
        (lambda emit, x: emit(op.add(x, const(1, 1, 4, 5, 6))), "constant .* is not supported"),
        (lambda emit, x: emit(op.mean(x, [1], keepdims=True)), "over height and width"),
        (lambda emit, x: emit(op.subtract(emit(op.nn.relu(x)), x)), "not supported"),
        (lambda emit, x: emit(op.divide(number(1), x)), "divided by a tensor"),
    ],
)
def test_four_dimensions_refuses(body: Any, says: str) -> None:
    with pytest.raises(Mnv3cError, match=says):
        four_dimensions(clip_forms(module(body)))


def test_global_pool() -> None:
    mod = module(lambda emit, x: emit(op.nn.avg_pool2d(x, pool_size=(5, 6))))
    after = global_pool(mod)
    assert operators(after) == ["mean"]
    same(mod, after)
    mod = module(lambda emit, x: emit(op.nn.adaptive_avg_pool2d(x, output_size=(1, 1))))
    assert operators(global_pool(mod)) == ["mean"]
    mod = module(lambda emit, x: emit(op.nn.avg_pool2d(x, pool_size=(5, 5))))
    assert operators(global_pool(mod)) == ["nn.avg_pool2d"]


def test_input_affine() -> None:
    def body(emit: Any, x: Any) -> Any:
        scaled = emit(op.multiply(emit(op.add(x, number(1))), const(1, 4, 1, 1, low=0.5)))
        return emit(op.nn.conv2d(scaled, const(2, 4, 3, 3), padding=(1, 1, 1, 1)))

    mod = module(body)
    after = input_affine(mod)
    assert operators(after) == ["nn.conv2d"]
    scale, shift = (
        np.asarray([float(v) for v in after["main"].attrs[f"mnv3c.input_{k}"]]) for k in ("scale", "shift")
    )
    x = np.random.default_rng(4).normal(0, 1, SHAPE).astype(np.float32)
    fed = x * scale[:, None, None].astype(np.float32) + shift[:, None, None].astype(np.float32)
    assert run(after, fed) == pytest.approx(run(mod, x), abs=1e-5)


def test_input_affine_stops_at_a_second_reader() -> None:
    def body(emit: Any, x: Any) -> Any:
        scaled = emit(op.multiply(x, number(2)))
        return emit(op.multiply(emit(op.clip(scaled, 0.0, 1.0)), scaled))

    mod = module(lambda emit, x: emit(op.add(emit(op.multiply(x, number(3))), emit(op.clip(x, 0.0, 1.0)))))
    assert operators(input_affine(mod)) == operators(mod)
    assert operators(input_affine(module(body))) == ["clip", "multiply"]


def gate(emit: Any, x: Any, sixth: float = 1 / 6) -> Any:
    clipped = emit(op.clip(emit(op.add(x, number(3))), 0.0, 6.0))
    return emit(op.multiply(clipped, number(sixth)))


def test_activations_writes_one_form() -> None:
    forms: list[Callable[[Any, Any], Any]] = [
        lambda emit, x: emit(op.multiply(x, gate(emit, x))),
        lambda emit, x: emit(op.multiply(gate(emit, x), x)),
        lambda emit, x: emit(op.multiply(emit(op.multiply(x, gate(emit, x, 1.0))), number(1 / 6))),
        lambda emit, x: emit(op.multiply(emit(op.multiply(x, number(1 / 6))), gate(emit, x, 1.0))),
    ]
    for form in forms:
        mod = module(form)
        after = activations(mod)
        assert alive(after) == ["multiply", "add", "clip", "multiply"]
        slope, offset = (float(array(v.args[1])) for _, v in list(bindings(fold_constants(after)))[:2])
        assert (slope, offset) == (pytest.approx(1 / 6), 0.5)
        same(mod, after)


def test_activations_of_torchs_clips() -> None:
    """torch exports relu6 as ``clip(clip(x, 0, inf), -inf, 6)``."""

    def body(emit: Any, x: Any) -> Any:
        low = emit(op.clip(emit(op.add(x, number(3))), 0.0, math.inf))
        product = emit(op.multiply(x, emit(op.clip(low, -math.inf, 6.0))))
        return emit(op.multiply(product, number(1 / 6)))

    mod = module(body)
    after = activations(mod)
    assert alive(after) == ["multiply", "add", "clip", "multiply"]
    same(mod, after)


def test_activations_leaves_other_clips_alone() -> None:
    def body(emit: Any, x: Any) -> Any:
        y = emit(op.clip(emit(op.add(emit(op.multiply(x, number(-2))), number(1))), -1.0, 2.0))
        return emit(op.multiply(emit(op.multiply(y, number(-0.5))), emit(op.clip(x, -1.0, 1.0))))

    mod = module(body)
    same(mod, activations(mod))


def test_fold_affine() -> None:
    def body(emit: Any, x: Any) -> Any:
        before = emit(op.add(emit(op.multiply(x, const(1, 4, 1, 1))), const(1, 4, 1, 1)))
        conv = emit(op.nn.conv2d(before, const(6, 2, 1, 1), groups=2))
        after = emit(op.add(emit(op.multiply(conv, const(1, 6, 1, 1))), number(0.5)))
        relu = emit(op.clip(after, 0.0, math.inf))
        return emit(op.nn.conv2d(emit(op.multiply(relu, number(3))), const(2, 6, 3, 3), padding=(1, 1, 1, 1)))

    mod = module(body)
    after = fold_affine(mod)
    assert operators(after) == ["nn.conv2d", "add", "clip", "nn.conv2d", "add"]
    same(mod, after)


def test_fold_affine_keeps_a_shift_in_front_of_padding() -> None:
    """A shift cannot go through zero padding: it stays, as a depthwise convolution."""

    def body(emit: Any, x: Any) -> Any:
        shifted = emit(op.add(emit(op.clip(x, 0.0, 1.0)), number(0.5)))
        return emit(op.nn.conv2d(shifted, const(2, 4, 3, 3), padding=(1, 1, 1, 1)))

    mod = module(body)
    after = fold_affine(mod)
    assert operators(after) == ["clip", "nn.conv2d", "add", "nn.conv2d", "add"]
    same(mod, after)


def test_partition() -> None:
    def body(emit: Any, x: Any) -> Any:
        conv = emit(op.add(emit(op.nn.conv2d(x, const(4, 4, 1, 1))), const(1, 4, 1, 1)))
        shifted = emit(op.add(emit(op.multiply(conv, number(0.2))), number(0.5)))
        swish = emit(op.multiply(conv, emit(op.clip(shifted, 0.0, 1.0))))
        return emit(
            op.add(emit(op.mean(swish, [2, 3], keepdims=True)), emit(op.mean(x, [2, 3], keepdims=True)))
        )

    mod = module(body)
    halfway = partition_activations(mod)
    assert operators(halfway) == ["nn.conv2d", "add", "hard_swish", "mean", "mean", "add"]
    after = partition_operators(halfway)
    assert sorted(operators(after)) == sorted(["conv2d", "hard_swish", *["global_average_pool"] * 2, "add"])
    graph = lower(after, "g", {})
    assert [type(n).__name__ for n in graph].count("GlobalAveragePool") == 2
    with pytest.raises(Mnv3cError, match=r"operator relax\.tanh"):
        partition_operators(module(lambda emit, x: emit(op.tanh(x))))


@pytest.mark.slow
def test_every_pass_keeps_the_meaning() -> None:
    """A squeeze-and-excite block through the whole list, checked on the way."""

    def body(emit: Any, x: Any) -> Any:
        conv = emit(op.nn.conv2d(x, const(4, 4, 3, 3), padding=(1, 1, 1, 1)))
        statistics = [const(4), const(4), const(4), const(4, low=0.1)]
        normed = emit(op.nn.batch_norm(conv, *statistics, axis=1, epsilon=1e-3, training=False))
        swish_in = emit(relax.TupleGetItem(normed, 0))
        swish = emit(op.multiply(swish_in, gate(emit, swish_in)))
        pooled = emit(op.nn.adaptive_avg_pool2d(swish, output_size=(1, 1)))
        squeezed = emit(op.nn.relu(emit(op.nn.conv2d(pooled, const(2, 4, 1, 1)))))
        excited = emit(op.nn.conv2d(squeezed, const(4, 2, 1, 1)))
        gated = emit(op.multiply(swish, gate(emit, excited, 0.16667)))
        out = emit(op.add(emit(op.nn.conv2d(gated, const(4, 4, 1, 1))), x))
        return emit(op.reshape(out, (1, 120)))

    before = module(body)
    reference, mod = expand_batch_norm(before), before  # TVM's own batch norm compiles in training form
    for step in PASSES:
        mod = step(mod)
        if step in (four_dimensions, activations, fold_affine, partition_operators):
            same(reference, mod)
    assert operators(mod) == operators(run_passes(before))
    assert "batch_norm" not in str(operators(mod))


def test_nothing_left_is_an_error() -> None:
    mod = run_passes(module(lambda emit, x: emit(op.multiply(x, number(2))), (1, 3, 5, 6)))
    assert len(result(mod)) == 1
    with pytest.raises(EmptyNetwork):
        lower(mod, "g", {})
