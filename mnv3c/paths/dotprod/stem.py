"""The first convolution: few channels, dense in the caller's buffer, windows built by table look-up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnv3c.codegen.program import Constant, Kernel, Stage
from mnv3c.codegen.render import identifier, render
from mnv3c.ir import int_ops as q
from mnv3c.ir.graph import Tensor
from mnv3c.ir.printer import shape_text
from mnv3c.paths.common.shares import for_shares, own, split
from mnv3c.paths.dotprod.builder import DENSE, Builder, constants
from mnv3c.paths.dotprod.epilogue import layer_record, plan_epilogue, quad_records
from mnv3c.paths.dotprod.layout import ROW, TILE, grid, quads
from mnv3c.paths.dotprod.pointwise import call
from mnv3c.paths.dotprod.stages import conv_matrix, simple_result

_MOST_QUADS = 16


def gather_kernel(conv: q.QConv, channels: int, octets: bool) -> Kernel | None:
    """Tiles of the windows of 4 neighbouring outputs; ``None`` if they span more than 64 bytes of a row.

    Args:
        octets: make matrix operands, of 2 outputs by 8 values of a window.
    """
    kh, kw = conv.kernel
    depth = kh * kw * channels
    longest = (3 * conv.stride[1] + (kw - 1) * conv.dilation[1] + 1) * channels
    if longest > 64 or quads(depth) > _MOST_QUADS:
        return None
    indices: dict[tuple[int, ...], int] = {}
    tiles = []
    for places in _places(depth, octets):
        rows: dict[int, list[int]] = {}
        for i, (pixel, value) in enumerate(places):
            ky, rest = divmod(value, kw * channels)
            if ky < kh:
                kx, c = divmod(rest, channels)
                at = (pixel * conv.stride[1] + kx * conv.dilation[1]) * channels + c
                rows.setdefault(ky, [255] * 16)[i] = at
        tiles.append([(ky, indices.setdefault(tuple(index), len(indices))) for ky, index in rows.items()])
    kind = "octets_" if octets else ""
    name = f"gather_{kind}{kh}x{kw}x{channels}_s{conv.stride[1]}_d{conv.dilation[1]}_dotprod"
    source = render(
        "kernels/dotprod/gather_rows.c.j2",
        name=name,
        kernel=conv.kernel,
        channels=channels,
        stride=conv.stride[1],
        indices=list(indices),
        tiles=tiles,
        registers=-(-longest // 16),
        advance=4 * conv.stride[1] * channels,
    )
    return Kernel(name, source)


def _places(depth: int, octets: bool) -> list[list[tuple[int, int]]]:
    """For every 16 bytes of a block of windows the (pixel, value of its window) of each byte."""
    if not octets:
        return [[(p, 4 * quad + i) for p in range(4) for i in range(4)] for quad in range(quads(depth))]
    pairs = ((0, 2), (1, 3))
    return [
        [(p, 8 * octet + i) for p in pair for i in range(8)]
        for octet in range(-(-depth // 8))
        for pair in pairs
    ]


def can_stem(builder: Builder, node: q.FusedConv) -> bool:
    """Whether ``lower_stem`` can compute ``node``: one group, few channels, and not a plain 1x1."""
    conv = node.conv
    if conv.groups != 1 or conv.pointwise or conv.dilation[0] != 1 or not simple_result(builder, node):
        return False
    if node.residual is not None or node.channel_sum is not None:
        return False
    return gather_kernel(conv, builder.graph.tensor(node.inputs[0]).shape[2], False) is not None


@dataclass(frozen=True)
class StemRows:
    """What makes the windows of one row of the first convolution, as tiles that a 1x1 convolution reads.

    Attributes:
        in_quads: tiles of a block of windows.
        windows_bytes, ring_bytes: memory that it needs.
        input_row: C that brings in a row of the image.
        pulls: whether that can come from a camera.
    """

    node: q.FusedConv
    image: Tensor
    gather: Kernel
    in_quads: int
    windows_bytes: int
    ring_bytes: int
    values: dict[str, object]
    padding: Constant
    input_row: str
    pulls: bool

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """What the templates call."""
        return Kernel("input_row_dotprod", self.input_row), self.gather


def stem_rows(builder: Builder, node: q.FusedConv, flip: q.FlipSign | None) -> StemRows:
    """The windows of a convolution for which ``can_stem`` holds.

    Args:
        flip: of the image before the convolution, if nothing else reads its result.
    """
    graph, conv = builder.graph, node.conv
    x, y = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    octets = builder.instructions.octets is not None
    channels = x.shape[2]
    gather = gather_kernel(conv, channels, octets)
    assert gather is not None
    label = identifier(node.name)
    columns = grid(y.shape, ROW)[1]
    kh, kw = conv.kernel
    in_quads = len(_places(kh * kw * channels, octets))
    zero_point = np.broadcast_to(np.asarray(x.quant.zero_point if x.quant else (0,), np.int8), x.shape[2:])
    widest = (columns * 4 * conv.stride[1] + (kw - 1) * conv.dilation[1]) * channels + 64
    image = graph.tensor(flip.inputs[0]) if flip else x
    pulls = builder.camera and image.name in graph.inputs
    pitch = -(-max(widest, (conv.pad[1] + x.shape[1]) * channels + 64) // (16 * channels)) * 16 * channels
    return StemRows(
        node=node,
        image=image,
        gather=gather,
        in_quads=in_quads,
        windows_bytes=(columns * in_quads + 1) * TILE,
        ring_bytes=kh * pitch,
        values={
            "label": label,
            "gather": gather.name,
            "height": x.shape[0],
            "width": x.shape[1],
            "channels": channels,
            "kernel_h": kh,
            "stride": conv.stride[0],
            "pad": conv.pad,
            "pitch": pitch,
            "flip": -128 if flip else 0,
            "columns": columns,
            "pulls": pulls,
        },
        padding=Constant(f"padding_{label}", zero_point.copy(), "table"),
        input_row=render("kernels/dotprod/input_row.c.j2", pulls=pulls),
        pulls=pulls,
    )


def lower_stem(builder: Builder, node: q.FusedConv, flip: q.FlipSign | None) -> bool:
    """A convolution for which ``can_stem`` holds, as a stage of its own; ``flip`` as for ``stem_rows``."""
    y = builder.graph.tensor(node.outputs[0])
    label = identifier(node.name)
    e = plan_epilogue(node)
    rows, columns = grid(y.shape, ROW)
    made = stem_rows(builder, node, flip)
    form = builder.result_form(y, ROW)
    plain = ("out",) if form == ROW else ()
    knob = builder.knobs(node.name)
    multiply = builder.pointwise(
        made.in_quads, quads(y.shape[2]), columns, "channel", e, plain=plain, knob=knob
    )
    source = builder.need(made.image.name, DENSE)
    target = builder.provide(y.name, form)
    ring = builder.scratch(f"{label}_rows", made.ring_bytes)
    windows = builder.scratch(f"{label}_windows", made.windows_bytes)
    shares = split(rows, builder.workers(node.name, own_memory=True))
    body = render(
        "kernels/dotprod/stem.c.j2",
        stem={
            **made.values,
            "source": source,
            "ring": own(ring, shares.parts),
            "windows": own(windows, shares.parts),
        },
        shares=shares,
        multiply=call(
            multiply.kernel.name,
            "pointwise_call",
            {
                "in": "windows",
                "in_block": made.in_quads * TILE,
                "weights": f"weights_{label}",
                "params": f"params_{label}",
                "common": f"common_{label}",
                "out": f"(int8_t *)R_{target} + (ptrdiff_t)row * {columns * quads(y.shape[2]) * TILE}",
                "out_block": quads(y.shape[2]) * TILE,
                "out_quad": TILE,
                "depth": multiply.depth,
                "groups": quads(y.shape[2]) // multiply.quads,
                "rows": 1,
                "steps": multiply.steps,
            },
        ),
    )
    arrays = {
        "weights": (multiply.pack(conv_matrix(node)), "weight"),
        "params": (quad_records(node, e), "multiplier"),
        "common": (layer_record(node), "table"),
    }
    kernel_shape = "x".join(str(k) for k in node.conv.kernel)
    builder.add(
        Stage(
            name=label,
            title=f"convolution {kernel_shape}, {shape_text(made.image)} to {shape_text(y)}",
            nodes=(flip.name, node.name) if flip else (node.name,),
            reads=(source,),
            writes=(target,),
            body=body,
            scratch=for_shares((ring, windows), shares.parts),
            parts=shares.parts,
            kernels=(*made.kernels, multiply.kernel),
            constants=(*constants(label, arrays), made.padding),
            pulls=made.pulls,
        )
    )
    return True
