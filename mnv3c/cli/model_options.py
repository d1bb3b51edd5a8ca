"""Options that say which network is meant; shared by the commands that take a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mnv3c.errors import Mnv3cError

if TYPE_CHECKING:
    from mnv3c.images import Normalization

F = TypeVar("F", bound=Callable[..., Any])

# Name to (mean, standard deviation, what the bytes are divided by first).
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...], float]] = {
    "bytes": ((0.0,), (1.0,), 1.0),
    "unit": ((0.0,), (1.0,), 255.0),
    "signed": ((0.5,), (0.5,), 255.0),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255.0),
}


def model_options(command: F) -> F:
    """Adds the options of a network to a command."""
    for option in reversed(
        (
            click.option(
                "--weights", metavar="FILE", help="Weights of a zoo network: .npz, .pth, .safetensors."
            ),
            click.option("--width", type=float, help="Width multiplier of a zoo network."),
            click.option(
                "--resolution", type=int, help="Input height and width of a zoo network, in pixels."
            ),
            click.option(
                "--padding",
                type=click.Choice(["torch", "tf"]),
                help="Padding of a zoo network: even, or TensorFlow's SAME. Default: as its weights want it.",
            ),
            click.option("--classes", type=int, help="Number of classes of a zoo network."),
            click.option(
                "--shape", "input_shape", metavar="HxW", help="Input size, where a file leaves it open."
            ),
            click.option(
                "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all random numbers."
            ),
        )
    ):
        command = option(command)
    return command


def normalize_options(command: F) -> F:
    """Adds --normalize, --mean and --std; ``normalization`` reads them."""
    for option in reversed(
        (
            click.option(
                "--normalize",
                type=click.Choice(list(NORMALIZATIONS)),
                help="What the model makes of a byte x: x, x/255, x/127.5-1, or ImageNet's mean and spread.",
            ),
            click.option("--mean", metavar="R,G,B", help="Mean, of bytes or of images in 0 to 1."),
            click.option("--std", metavar="R,G,B", help="Standard deviation, likewise."),
        )
    ):
        command = option(command)
    return command


def device_options(command: F) -> F:
    """Adds --target and --device of the commands that measure layers."""
    target = click.option(
        "--target", required=True, metavar="CORE", help="A core that `mnv3c targets` lists."
    )
    device = click.option(
        "--device",
        default="simulated",
        show_default=True,
        metavar="WHERE",
        help="What measures: simulated, native (this machine), rpc://HOST:PORT, tracker://HOST:PORT/KEY.",
    )
    return target(device(command))


compiler_option = click.option(
    "--cc", metavar="COMMAND", help="C compiler. Default: $MNV3C_CC, or the first that works."
)


def parse_shape(text: str | None) -> tuple[int, int, int] | None:
    """``HxW`` as ``(3, H, W)``, which is what the front ends take.

    Raises:
        Mnv3cError: not two positive numbers.
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        raise Mnv3cError(f"{text!r} is not HxW, such as 48x192", "--shape")
    return 3, int(parts[0]), int(parts[1])


def parse_normalization(name: str | None, mean: str | None, std: str | None) -> Normalization | None:
    """The map from image bytes to what the model file takes; ``None`` if nothing was said.

    Raises:
        Mnv3cError: both forms given, only one of mean and deviation, or not numbers.
    """
    if name is None and mean is None and std is None:
        return None
    from mnv3c.images import Normalization

    if name is not None:
        if mean is not None or std is not None:
            raise Mnv3cError("give either --normalize or --mean and --std", "--normalize")
        means, deviations, one = NORMALIZATIONS[name]
        return Normalization.from_mean_std(means, deviations, one)
    if mean is None or std is None:
        raise Mnv3cError("--mean and --std go together", "--mean" if mean is None else "--std")
    return Normalization.from_mean_std(_numbers(mean, "--mean"), _numbers(std, "--std"))


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(p) for p in text.split(","))
    except ValueError:
        raise Mnv3cError(f"{text!r} is not a number, or numbers with commas between", option) from None
