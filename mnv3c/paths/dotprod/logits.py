"""1x1 convolutions to 16 bits, as of logits that are interpolated or decoded: dense results."""

from __future__ import annotations

from dataclasses import replace

from mnv3c.codegen.program import Stage
from mnv3c.codegen.render import identifier
from mnv3c.ir import int_ops as q
from mnv3c.ir.printer import shape_text
from mnv3c.paths.common.shares import for_shares, own, split
from mnv3c.paths.dotprod.builder import DENSE, Builder, constants, template_kernel
from mnv3c.paths.dotprod.epilogue import layer_record, plan_epilogue, quad_records
from mnv3c.paths.dotprod.layout import ROW, TILE, grid, quads
from mnv3c.paths.dotprod.pointwise import call, pointwise_kernel
from mnv3c.paths.dotprod.stages import conv_matrix, is_vector

# Results that wait to be written as pixels.
_WAITING = 32 * 1024


def lower_logits(builder: Builder, node: q.FusedConv) -> bool:
    """A 1x1 convolution of an int8 map to int16 with nothing behind it; False if it is none."""
    x, y = builder.graph.tensor(node.inputs[0]), builder.graph.tensor(node.outputs[0])
    if not node.conv.pointwise or is_vector(x) or (x.dtype, y.dtype) != ("int8", "int16"):
        return False
    if node.residual is not None or node.activation is not None or node.channel_sum is not None:
        return False
    label = identifier(node.name)
    e = replace(plan_epilogue(node), kind="int16", offset="none", clamp_low=False, clamp_high=False)
    rows, columns = grid(x.shape, ROW)
    in_quads, out_quads = quads(x.shape[2]), quads(y.shape[2])
    kernel = pointwise_kernel(in_quads, out_quads, columns, "channel", e)
    turn = template_kernel("pixels_from_tiles")
    in_row, out_row = columns * in_quads * TILE, columns * out_quads * 2 * TILE
    band = min(rows, max(1, _WAITING // out_row))
    source, target = builder.need(x.name, ROW), builder.provide(y.name, DENSE)
    tiles = builder.scratch(f"{label}_tiles", band * out_row)
    shares = split(rows, builder.window_shares)
    multiply = call(
        kernel.kernel.name,
        "pointwise_call",
        {
            "in": f"(const int8_t *)R_{source} + (ptrdiff_t)row * {in_row}",
            "in_block": in_quads * TILE,
            "in_row": in_row,
            "weights": f"weights_{label}",
            "params": f"params_{label}",
            "common": f"common_{label}",
            "out": "tiles",
            "out_block": out_quads * 2 * TILE,
            "out_row": out_row,
            "out_quad": 2 * TILE,
            "depth": kernel.depth,
            "groups": out_quads // kernel.quads,
            "rows": "rows",
            "steps": kernel.steps,
        },
    )
    width, channels = y.shape[1:]
    body = "\n".join(
        [
            f"int8_t *const tiles = (int8_t *){own(tiles, shares.parts)};",
            f"const int32_t end = {shares.end};",
            f"for (int32_t row = {shares.begin}; row < end; row += {band}) {{",
            f"const int32_t rows = row + {band} < end ? {band} : end - row;",
            multiply,
            "for (int32_t i = 0; i < rows; ++i) {",
            f"  {turn.name}((const int16_t *)(const void *)(tiles + i * {out_row}),"
            f" (int16_t *)(void *)R_{target} + (ptrdiff_t)(row + i) * {width * channels},"
            f" {width}, {channels});",
            "}",
            "}",
        ]
    )
    arrays = {
        "weights": (kernel.pack(conv_matrix(node)), "weight"),
        "params": (quad_records(node, e), "multiplier"),
        "common": (layer_record(node), "table"),
    }
    builder.add(
        Stage(
            name=label,
            title=f"1x1 convolution to 16 bits, {shape_text(x)} to {shape_text(y)}",
            nodes=(node.name,),
            reads=(source,),
            writes=(target,),
            body=body,
            scratch=for_shares((tiles,), shares.parts),
            kernels=(kernel.kernel, turn),
            constants=constants(label, arrays),
            parts=shares.parts,
        )
    )
    return True
