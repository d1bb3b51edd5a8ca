"""The Python interface: what ``mnv3c compile`` does, as a function."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv3c import targets
from mnv3c.camera import FORMATS
from mnv3c.codegen import camera as cameras
from mnv3c.codegen.library import Library, build_library
from mnv3c.codegen.program import Options
from mnv3c.codegen.write import check_replaceable, write_folder
from mnv3c.errors import Mnv3cError
from mnv3c.images import Normalization, calibration_inputs, list_images
from mnv3c.ir.graph import Graph
from mnv3c.ir.printer import print_graph
from mnv3c.ir.verify import verify as verify_graph
from mnv3c.paths import registry
from mnv3c.quant import file as quantized_file
from mnv3c.tuning import records as record_files
from mnv3c.tuning.apply import Applied, apply
from mnv3c.tuning.apply import sources as record_sources
from mnv3c.verification.inputs import byte_levels

Progress = Callable[[str, int, int], None]
INPUT_DTYPES = ("int8", "uint8", "float32")
OUTPUT_DTYPES = ("int16", "int8", "float32")


@dataclass(frozen=True)
class CompiledLibrary:
    """A library that was compiled.

    Attributes:
        name: prefix of its symbols.
        directory: where it lies; ``None`` if no output folder was asked for.
        manifest: the contents of ``manifest.json``.
        files: relative path to contents.
        notes: what the user should know: random weights, random calibration, slow fallbacks.
    """

    name: str
    directory: Path | None
    manifest: Mapping[str, Any]
    files: Mapping[str, str | bytes]
    notes: tuple[str, ...]


def compile(
    model: str | Path | Graph,
    target: str = "arm64",
    output: str | Path | None = None,
    *,
    name: str | None = None,
    weights: str | Path | None = None,
    calibration: str | Path | Iterable[np.ndarray] | None = None,
    path: str | None = None,
    input_dtype: str | None = None,
    output_dtype: str | None = None,
    camera: str | None = None,
    normalize: Normalization | None = None,
    width: float | None = None,
    resolution: int | None = None,
    classes: int | None = None,
    padding: str | None = None,
    input_shape: tuple[int, int, int] | None = None,
    seed: int = 0,
    mixed: int | None = None,
    clipping: str | None = None,
    memory: str = "fast",
    records: Iterable[str | Path] = (),
    compiler: str = "clang",
    untuned: bool = False,
    ignore_bad_records: bool = False,
    dump_ir: str | Path | None = None,
    progress: Progress | None = None,
) -> CompiledLibrary:
    """Compile a network to a stand-alone C library.

    Args:
        model: a zoo name, a model file, or a float graph.
        target: a core or platform of ``targets/``.
        output: folder to write; an existing library there is replaced as a whole.
        name: prefix of all symbols, a C identifier; by default made from the model's name.
        weights: for a zoo network; without it the weights are random and a note says so.
        calibration: folder of images, ``.npy`` file, or float32 network inputs ``(H, W, C)``;
            without it random data is used and a note says so.
        path: one path instead of those of the target.
        input_dtype: ``int8`` (symmetric; the default), ``uint8`` (raw image bytes, normalisation folded
            in) or ``float32``. A model that comes quantised keeps its own.
        output_dtype: ``int16`` (the default), ``int8`` or ``float32``; likewise.
        camera: ``rgb``, ``nv21`` and so on (``mnv3c.camera.FORMATS``): the library also takes frames of
            that format, of any size and rotation.
        normalize: image bytes to what the model file takes.
        width, resolution, classes: of a zoo network.
        padding: of a zoo network: ``torch`` (even) or ``tf`` (SAME); by default as its weights want it.
        input_shape: ``(C, H, W)`` for an ONNX file that leaves it open.
        seed: of random weights and random calibration.
        mixed: store at most so many tensors in 16 bits where that pays; see ``quantize``.
        clipping: how ranges of activations are cut: ``mse``, ``kl`` or ``minmax``; by default as suits the
            network.
        memory: ``fast`` or ``small``: what to prefer where speed and arena compete.
        records: files of ``mnv3c tune``, asked before the records that come with the compiler.
        compiler: ``clang`` or ``gcc``: what will compile the library; records are kept for each.
        untuned: use no records at all.
        ignore_bad_records: where records cannot be used, use the default schedules and note it.
        dump_ir: folder for the graphs after each step, as text.
        progress: called with (step, done, total).

    Raises:
        Mnv3cError: bad use or bad input; the message is one line and names the place.
    """
    chosen = targets.get(target)
    _one_of(input_dtype or INPUT_DTYPES[0], INPUT_DTYPES, "--input")
    _one_of(output_dtype or OUTPUT_DTYPES[0], OUTPUT_DTYPES, "--output-type")
    if camera is not None:
        _one_of(camera, tuple(FORMATS), "--camera")
    _one_of(memory, ("fast", "small"), "--memory")
    _one_of(compiler, record_files.FAMILIES, "--compiler")
    known, record_notes = _records(chosen, records, compiler, untuned, ignore_bad_records)
    if seed < 0:
        raise Mnv3cError(f"{seed} is negative", "--seed")
    if output is not None:
        check_replaceable(Path(output))  # a minute of work later would be late to say so
    if path is not None:
        registry.load(path)
        # The paths for Arm of one word size are of no use on the other; plain C is of use on both.
        if path != "ref" and (path == "armv7") != (chosen.architecture == "armv7-a"):
            raise Mnv3cError(f"target {chosen.name} has no path {path}", "--path")
    if name is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise Mnv3cError(f"{name!r} is not a C identifier that begins with a letter", "--name")
    if mixed is not None and comes_quantized(model):
        raise Mnv3cError("the model comes quantised: its own types are kept", "--mixed")
    if clipping is not None and comes_quantized(model):
        raise Mnv3cError("the model comes quantised: its own scales are kept", "--clipping")
    tell = progress or (lambda step, done, total: None)
    dump = _Dump(Path(dump_ir) if dump_ir is not None else None)

    tell("read the model", 0, 1)
    network: Graph | None = None
    if comes_quantized(model):
        graph = load_quantized(
            Path(str(model)),
            weights=weights,
            width=width,
            resolution=resolution,
            classes=classes,
            padding=padding,
            shape=input_shape,
            normalize=normalize,
        )
        integer = _with_own_doors(graph, name, input_dtype, output_dtype, calibration is not None)
        network = _float_of(model)
        tell("read the model", 1, 1)
    else:
        network = load(
            model,
            weights=weights,
            width=width,
            resolution=resolution,
            classes=classes,
            padding=padding,
            input_shape=input_shape,
            seed=seed,
            name=name,
            observe=dump if dump_ir is not None else None,
        )
        tell("read the model", 1, 1)
        dump("float", print_graph(network))
        integer = quantize(
            network,
            calibration,
            input_dtype=input_dtype or INPUT_DTYPES[0],
            output_dtype=output_dtype or OUTPUT_DTYPES[0],
            normalize=normalize,
            seed=seed,
            mixed=mixed,
            clipping=clipping,
            target=chosen.name,
            progress=tell,
        )
    dump("integer", print_graph(integer))
    settings = {"memory": memory, "compiler": compiler, "calibration": _facts(calibration)}
    if camera is not None:
        settings["camera"] = camera
    integer = _with_notes(integer, record_notes)
    library = _emit(network, integer, chosen, path, known, settings, dump, tell)
    directory = None
    if output is not None:
        directory = Path(output)
        write_folder(directory, library.files)
    return CompiledLibrary(
        library.name, directory, library.manifest, library.files, _strings(library.manifest["notes"])
    )


def comes_quantized(model: str | Path | Graph) -> bool:
    """Whether ``model`` is a file whose operators are integers already.

    Raises:
        Mnv3cError: the file cannot be read.
    """
    if isinstance(model, Graph):
        return False
    if Path(model).suffix == quantized_file.SUFFIX:
        return True
    if not Path(model).is_file():
        return False
    from mnv3c.frontend.quantized import is_quantized

    return is_quantized(Path(model))


def load_quantized(model: str | Path, **options: object) -> Graph:
    """The integer graph of a file for which ``comes_quantized``; such a model takes no options.

    Raises:
        Mnv3cError: the file is damaged or holds something unsupported, or an option is not ``None``.
    """
    from mnv3c.frontend.quantized import load as load_file

    for option, value in options.items():
        if value is not None:
            raise Mnv3cError("a model that comes quantised says it all itself", f"--{option}")
    if Path(model).suffix == quantized_file.SUFFIX:
        return quantized_file.load(model).integer
    return load_file(Path(model))


def _float_of(model: str | Path | Graph) -> Graph | None:
    """The float graph that an ``.mnv3q`` file keeps beside the integers, for ``verify``."""
    if isinstance(model, Graph) or Path(model).suffix != quantized_file.SUFFIX:
        return None
    return quantized_file.load(model).network


def _with_own_doors(
    graph: Graph, name: str | None, input_dtype: str | None, output_dtype: str | None, calibrated: bool
) -> Graph:
    """A graph that came quantised, named; it keeps its own scales and doors, and its notes say so."""
    doors = (("--input", input_dtype, graph.inputs), ("--output-type", output_dtype, graph.outputs))
    for option, wanted, names in doors:
        own = sorted({graph.tensor(n).dtype for n in names})
        if wanted is not None and own != [wanted]:
            raise Mnv3cError(
                f"the model comes quantised and has {', '.join(own)}; it cannot be changed", option
            )
    notes = _strings(graph.meta.get("notes", ()))
    if calibrated:
        notes = (
            *notes,
            "the model comes quantised: its own scales are kept, the calibration data is not used",
        )
    return verify_graph(graph.replace(name=name or graph.name, meta={**graph.meta, "notes": list(notes)}))


def load(model: str | Path | Graph, **options: Any) -> Graph:
    """The float graph of a zoo name or a model file (``mnv3c.frontend.load``); a graph as it is.

    Raises:
        Mnv3cError: bad use or bad input; ``comes_quantized`` tells the files that have no float graph.
    """
    if isinstance(model, Graph):
        return model
    from mnv3c.frontend import load as load_model  # imports TVM: seconds, and not needed for --help

    if options.get("weights") is not None:
        options["weights"] = str(options["weights"])
    return load_model(str(model), **options)


def quantize(
    network: Graph,
    calibration: str | Path | Iterable[np.ndarray] | None = None,
    *,
    input_dtype: str = "int8",
    output_dtype: str = "int16",
    normalize: Normalization | None = None,
    seed: int = 0,
    mixed: int | None = None,
    clipping: str | None = None,
    target: str = "cortex-a53",
    progress: Progress | None = None,
) -> Graph:
    """Post-training quantisation of a float graph; the result has passed the verifier.

    Args:
        mixed: store at most so many tensors in 16 bits where that pays (``quant.mixed``); what that gives
            and costs is in ``meta["quantization"]["mixed"]``.
        clipping: how ranges of activations are cut: ``mse``, ``kl`` or ``minmax``; by default as suits the
            network (``quant.origin``).
        target: for which the cost of ``mixed`` is counted.
    """
    from mnv3c.quant import quantize as run

    data: Any = calibration
    if isinstance(calibration, str | Path):
        data = calibration_inputs(Path(calibration), network, normalize)
    settings: dict[str, Any] = {
        "input_dtype": input_dtype,
        "output_dtype": output_dtype,
        "normalization": normalize,
        "seed": seed,
        "clipping": clipping,
        "progress": progress,
    }
    if mixed is None:
        return verify_graph(run(network, data, **settings))
    return _mixed(network, data, mixed, target, settings)


def _mixed(network: Graph, data: Any, most: int, target: str, settings: Mapping[str, Any]) -> Graph:
    """At most so many tensors in 16 bits, and what they cost."""
    from mnv3c.bench.compare import compare
    from mnv3c.bench.measure import silent
    from mnv3c.quant.mixed import quantize_mixed

    if data is None:
        raise Mnv3cError("needs --calibration: images say what pays", "--mixed")
    targets.get(target)  # minutes of work later would be late to say so
    graph, choice = quantize_mixed(network, data, most, **settings)
    if choice.trials is not None:
        cost = asdict(compare(*choice.trials, target, settings["progress"] or silent))
        facts: Any = graph.meta["quantization"]
        facts = {**facts, "mixed": {**facts["mixed"], "cost": cost}}
        graph = graph.replace(meta={**graph.meta, "quantization": facts})
    return verify_graph(graph)


def _emit(
    network: Graph | None,
    integer: Graph,
    target: targets.Target,
    path: str | None,
    known: Sequence[record_files.Records],
    settings: Mapping[str, object],
    dump: _Dump,
    tell: Progress,
) -> Library:
    paths = (path,) if path else registry.choose(target.paths, target.run_time_choice)
    tuning = target.name if target.kind == "core" else "generic"
    tell("generate C", 0, 1)
    # A core has one path; schedules are those of a path. They are for speed, whatever memory that takes.
    tuned = Applied()
    if known and len(paths) == 1 and settings["memory"] == "fast":
        tuned = apply(integer, paths[0], target, known, str(settings["compiler"]))
    camera = None
    if "camera" in settings:
        cameras.check(integer)
        camera = cameras.camera_of(integer, str(settings["camera"]), byte_levels(integer, network))
    library = build_library(
        integer,
        paths,
        options=Options(tuning, str(settings["memory"]), tuned.schedules, tuned.tuned),
        float_graph=network,
        settings={
            "target": target.name,
            "paths": list(paths),
            **settings,
        },
        summary=_summary(integer, target),
        notes=notes(integer),
        camera=camera,
        observe=lambda step, graph: dump(step, print_graph(graph)),
        observe_program=lambda path, text: dump(f"program-{path}", text),
    )
    tell("generate C", 1, 1)
    return library


def _records(
    target: targets.Target, files: Iterable[str | Path], compiler: str, untuned: bool, fall_back: bool
) -> tuple[list[record_files.Records], list[str]]:
    """The records that apply to a target, and notes about those that cannot be used."""
    wanted = [Path(f) for f in files]
    if wanted and untuned:
        raise Mnv3cError("not together with --records", "--untuned")
    if wanted and target.kind != "core":
        raise Mnv3cError(f"{target.name} is a platform; records are for one core", "--records")
    if untuned or target.kind != "core":
        return [], []
    return record_sources(target, compiler, wanted, fall_back=fall_back)


def _with_notes(graph: Graph, notes: Sequence[str]) -> Graph:
    if not notes:
        return graph
    return graph.replace(meta={**graph.meta, "notes": [*_strings(graph.meta.get("notes", ())), *notes]})


def _facts(calibration: str | Path | Iterable[np.ndarray] | None) -> dict[str, object]:
    """What identifies the calibration data, without a path: for the manifest."""
    if calibration is None:
        return {"source": "none"}
    if not isinstance(calibration, str | Path):
        return {"source": "arrays"}
    source = Path(calibration)
    files = list_images(source) if source.is_dir() else [source]
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return {"source": "files", "files": len(files), "sha256": digest.hexdigest()}


def _summary(graph: Graph, target: targets.Target) -> str:
    shape = "x".join(str(n) for n in graph.tensor(graph.inputs[0]).shape)
    return f"int8 network of {shape} input, for {target.name}"


def notes(graph: Graph) -> tuple[str, ...]:
    """What the user of a network should know: random weights or calibration, what was left out."""
    found = []
    if graph.meta.get("random_weights"):
        found.append("RANDOM WEIGHTS: no --weights were given; the answers mean nothing")
    if graph.meta.get("random_calibration"):
        found.append("RANDOM CALIBRATION: no --calibration was given; expect a loss of accuracy")
    return (*found, *_strings(graph.meta.get("notes", ())))


def _strings(values: Any) -> tuple[str, ...]:
    return tuple(str(v) for v in values)


def _one_of(value: str, known: tuple[str, ...], option: str) -> None:
    if value not in known:
        raise Mnv3cError(f"{value!r} is not one of {', '.join(known)}", option)


class _Dump:
    """Numbers and writes the graphs of ``--dump-ir``."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._count = 0

    def __call__(self, step: str, text: str) -> None:
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f"{self._count:02d}-{step}.txt").write_text(text)
        except OSError as error:
            raise Mnv3cError(f"cannot write: {error.strerror}", str(self._folder)) from error
        self._count += 1
