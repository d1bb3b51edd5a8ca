"""The table of issue 4: integer networks beside what they come from.

    python benchmarks/accuracy.py [--model NAME] [--limit N] [--peers] [--json]
    python benchmarks/accuracy.py --steps [--model NAME]

Needs the test data (``MNV3C_DATA``, or ``../shared/data`` beside the repository), ``onnxruntime``,
``ai-edge-litert`` and ``rapidocr-onnxruntime``. Float networks are quantised by ``images/calibration`` only.
Photographs of ``images/labelled`` are resized whole, bilinear. ``--steps`` prints what each step of the
quantiser is worth instead. Exit code 1 if a row misses what it must reach.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from accuracy_table import photographs, steps, text_lines
from accuracy_table.rows import holds, show

TEXT = "text-direction"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=os.environ.get("MNV3C_DATA", beside))
    parser.add_argument("--model", choices=[*photographs.MODELS, TEXT], action="append")
    parser.add_argument("--limit", type=int, help="take only the first so many images")
    parser.add_argument("--steps", action="store_true", help="every step of the quantiser")
    parser.add_argument(
        "--peers", action="store_true", help="let onnxruntime quantise the float networks, too"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    data = Path(args.data)
    if not (data / "models").is_dir():
        print("no trained models: set MNV3C_DATA to the folder of models/ and images/", file=sys.stderr)
        return 2
    if args.steps:
        for name in args.model or [n for n, m in photographs.MODELS.items() if m.calibrated]:
            steps.show_steps(name, data, args.limit)
        return 0
    rows = []
    for name in args.model or [*photographs.MODELS, TEXT]:
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        row = (
            text_lines.measure(args.limit)
            if name == TEXT
            else photographs.measure(name, data, args.limit, args.peers)
        )
        print(", ".join(f"{c.quantity} {c.value:.1f}" for c in row.checks), file=sys.stderr, flush=True)
        rows.append(row)
    show(rows, args.json)
    return 0 if holds(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
