"""Depthwise kernels: straight-line products for each window, block shape and epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mnv3c.codegen.program import Kernel
from mnv3c.codegen.render import render
from mnv3c.ir.int_ops import QConv
from mnv3c.paths.common.knobs import Knob, by_rule
from mnv3c.paths.dotprod.epilogue import Epilogue
from mnv3c.paths.dotprod.loads import loads_of
from mnv3c.paths.dotprod.outliers import split
from mnv3c.paths.dotprod.windows import Block, Lookup, WindowPlan, plan_lookup
from mnv3c.schedules import table_of

# Behind the weights of a quad that are sums: whether they are.
_FLAG_BYTES = 4


@dataclass(frozen=True)
class _OutputBlock:
    """One block of a group; ``lines`` are the C statements before its epilogue: tile loads and products."""

    column: int
    accumulators: tuple[str, ...]
    result: str
    mask: bool
    lines: tuple[str, ...]


@dataclass(frozen=True)
class BlockGroup:
    """Some neighbouring output blocks, computed together.

    Attributes:
        accumulators: C names, to be set to the bias.
        blocks: the output blocks.
        advance: bytes from this group's first input tile to the next group's.
        vectors: the weight vectors that the lines read.
    """

    accumulators: tuple[str, ...]
    blocks: tuple[_OutputBlock, ...]
    advance: int
    vectors: frozenset[int]


def _block_group(plan: WindowPlan, blocks: int, held: int, edge_pixels: int, ring: bool) -> BlockGroup:
    """Args:
    edge_pixels: pixels of the last block that lie in the image, 0 for all.
    ring: each row of tiles has a pointer of its own.
    """

    def accumulator(block: int, position: int) -> str | None:
        if edge_pixels and block == blocks - 1 and position >= edge_pixels:
            return None
        return f"a{block}_{position}"

    resident = held > 0
    seen: set[int] = set()
    loaded: set[tuple[int, int]] = set()

    def products(row: int, vector: int, which: Sequence[int]) -> list[str]:
        """Products of a weight vector with a row of tiles, and the loads of tiles not yet loaded."""
        lines: list[str] = []
        for p in plan.products:
            for b in which if (p.row, p.vector) == (row, vector) else ():
                sum_ = accumulator(b, p.position)
                column = p.column + b * plan.step[1]
                if sum_ is None:
                    continue
                if (row, column) not in loaded:
                    loaded.add((row, column))
                    at = f"x{row} + {16 * column}" if ring else f"x + {row} * pitch + {16 * column}"
                    lines.append(f"const int8x16_t t{row}_{column} = vld1q_s8({at});")
                weight = f"w{vector}" if resident else f"v{row}_{vector}"
                if resident and vector >= held:
                    weight = f"vld1q_s8(w + {16 * vector})"
                lines.append(f"{sum_} = vdotq_s32({sum_}, t{row}_{column}, {weight});")
                seen.add(vector)
        return lines

    order = list(dict.fromkeys((p.row, p.vector) for p in plan.products))
    outputs = []
    for b in range(blocks):
        lines: list[str] = []
        if resident:
            # A block is finished while the next one's products run.
            for row, vector in order:
                lines += products(row, vector, (b,))
        elif b == 0:
            last = order[0][0]
            for row, vector in order:
                made = products(row, vector, range(blocks))
                load = f"const int8x16_t v{row}_{vector} = vld1q_s8(w + {16 * vector});"
                second = accumulator(0, 1)
                if made and row != last and second:
                    # Tiles of the next rows, loaded early, would push accumulators out of their registers.
                    lines.append(f"MNV3C_PIN2({accumulator(0, 0)}, {second});")
                    last = row
                lines += [load, *made] if made else []
        names = tuple(accumulator(b, p) or f"a{b}_0" for p in range(4))
        mask = bool(edge_pixels) and b == blocks - 1
        outputs.append(_OutputBlock(b, names, f"out{b}", mask, tuple(lines)))
    names = tuple(dict.fromkeys(a for o in outputs for a in o.accumulators))
    return BlockGroup(names, tuple(outputs), 16 * plan.step[1] * blocks, frozenset(seen))


@dataclass(frozen=True)
class DepthwiseKernel:
    """A rendered kernel and how a call drives it.

    Attributes:
        steps: runs of the main group for each row of blocks.
        vector_bytes: scratch for weight vectors, 0 where they stay in registers.
        quad_bytes: packed weights of a quad.
    """

    kernel: Kernel
    steps: int
    vector_bytes: int
    quad_bytes: int


def depthwise_kernel(
    conv: QConv,
    plan: WindowPlan,
    block_in: Block,
    block_out: Block,
    e: Epilogue,
    width: int,
    knob: Knob = by_rule,
    ring: bool = False,
) -> DepthwiseKernel | None:
    """The kernel for rows of ``width`` output pixels; ``None`` if the window is too wide for it.

    Args:
        ring: whether the window's rows lie in a ring.
        knob: see ``schedules/block.py``.
    """
    lookup = plan_lookup(plan, conv.kernel[1])
    if lookup is None:
        return None
    rules = table_of("block")
    free, count = rules.free_registers(_constants(e)), len(plan.vectors)
    own = rules.default_weights(count, free)
    weights = knob("weights", own)
    resident = weights == "registers"
    held = min(free, count) if resident else 0
    columns = -(-width // block_out[1])
    edge_pixels = width % 4 if block_out == (1, 4) else 0
    blocks = min(knob("blocks", rules.default_blocks(weights, columns)), columns)
    steps, tail = divmod(columns, blocks)
    if edge_pixels and tail == 0:
        steps, tail = steps - 1, blocks
    label = (
        f"{conv.kernel[0]}x{conv.kernel[1]}_s{conv.stride[0]}{conv.stride[1]}_d{conv.dilation[0]}{conv.dilation[1]}"
        f"_p{conv.pad[0]}{conv.pad[1]}_{block_in[0]}x{block_in[1]}_{block_out[0]}x{block_out[1]}"
    )
    start = knob("start", rules.default_start())
    variant = {"memory": "_memory", "registers": "_held"}[weights] if weights != own else ""
    variant += "_direct" * (start == "registers") + "_ring" * ring
    single, attribute = loads_of(knob)
    variant += single
    name = f"depthwise_{label}_{blocks if steps else 0}_{tail}e{edge_pixels}_{e.label}{variant}_dotprod"
    taps = conv.kernel[0] * conv.kernel[1] * 4
    parts = 1 + len(split(conv.weight).rest)
    quad_bytes = taps if parts == 1 else parts * taps + _FLAG_BYTES

    title = f"{conv.kernel[0]}x{conv.kernel[1]}, stride {conv.stride[0]}, blocks {block_in} to {block_out}"

    def source_of(name: str, plan: WindowPlan, lookup: Lookup, held: int) -> str:
        groups = []
        if steps:
            groups.append(_block_group(plan, blocks, held, 0, ring))
        if tail:
            groups.append(_block_group(plan, tail, held, edge_pixels, ring))
        used = sorted(set().union(*(g.vectors for g in groups)))
        return render(
            "kernels/dotprod/depthwise.c.j2",
            name=name,
            loads=attribute,
            title=title,
            epilogue=e,
            lookup=lookup,
            used=[(v, *lookup.vectors[v]) for v in used],
            offsets=sorted({lookup.vectors[v][0] for v in used}),
            used_indices=sorted({lookup.vectors[v][1] for v in used}),
            held=held,
            start=max(len(g.accumulators) for g in groups) if start == "table" else 0,
            main=groups[0] if steps else None,
            tail=groups[-1] if tail else None,
            blocks=blocks,
            has_main=steps > 0,
            edge_pixels=edge_pixels,
            edge_mask=[255 if i < 4 * edge_pixels else 0 for i in range(16)],
            ring=ring,
            # With dilation no product reads some rows of the window.
            rows_read=sorted({p.row for p in plan.products}),
            row_step=plan.step[0],
            weight_bytes=quad_bytes,
        )

    if parts == 1:
        source = source_of(name, plan, lookup, held)
        return DepthwiseKernel(Kernel(name, source), steps, 0 if held == count else 16 * count, quad_bytes)
    # Weights of 9 bits: a kernel for the quads without, one with each product as a sum, one that chooses.
    name = name.replace("depthwise_", f"depthwise_split{parts}_")
    vectors = tuple((offset + part * taps, i) for part in range(parts) for offset, i in lookup.vectors)
    whole = replace(
        plan,
        vectors=plan.vectors * parts,
        products=tuple(
            replace(p, vector=p.vector + part * count) for part in range(parts) for p in plan.products
        ),
    )
    sources = [
        source_of(f"{name}_plain", plan, lookup, held),
        source_of(f"{name}_whole", whole, replace(lookup, vectors=vectors), 0),
        render(
            "kernels/dotprod/depthwise_split.c.j2",
            name=name,
            weight_bytes=quad_bytes,
            flag=parts * taps,
            words=e.words,
            sums=e.sum,
        ),
    ]
    return DepthwiseKernel(Kernel(name, "".join(sources)), steps, 16 * count * parts, quad_bytes)


def _constants(e: Epilogue) -> int:
    """Registers that the epilogue keeps through a row."""
    count = 2 + (e.offset != "none") + e.sum + e.clamp_low + e.clamp_high
    return count + (3 if e.kind == "hswish" else 0)


def pack_depthwise(conv: QConv) -> np.ndarray:
    """int8 ``[quads, kernel_h, kernel_w, 4]``, flat, with zeros behind for the widest table load.

    Weights of 9 bits are sums: ``[quads][parts][kernel_h, kernel_w, 4]``, and behind each quad's parts
    whether any but the first is not zero.
    """
    channels, kh, kw, _ = conv.weight.shape
    quads = -(-channels // 4)
    parts = split(conv.weight)
    packed = []
    for part in (parts.base, *parts.rest):
        padded = np.zeros((quads * 4, kh, kw), np.int8)
        padded[:channels] = part[..., 0]
        packed.append(padded.reshape(quads, 4, kh, kw).transpose(0, 2, 3, 1).reshape(quads, -1))
    if parts.rest:
        flags = np.zeros((quads, _FLAG_BYTES), np.int8)
        flags[:, 0] = np.any([p.any(axis=1) for p in packed[1:]], axis=0)
        packed.append(flags)
    return np.concatenate([np.concatenate(packed, axis=1).reshape(-1), np.zeros(64, np.int8)])
