"""``mnv3c device``: servers on phones and boards, and what is behind a tracker."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click

from mnv3c.cli.output import Output, json_option, plain
from mnv3c.errors import Mnv3cError

_UNGUARDED = (
    "TVM's RPC has no authentication: whoever reaches the port can run any code as this user. Keep it on the"
    " loopback interface and reach it with `adb forward` or an SSH tunnel (docs/tuning.md)."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Devices that measure candidates for `mnv3c tune`: phones and boards over TVM's RPC.

    \b
    A phone on USB:
      mnv3c device build -o server            a server that needs no Python
      mnv3c device push server --adb --start  puts it there, forwards its port, starts it
      mnv3c device ping rpc://127.0.0.1:9090
    A board with Python (Raspberry Pi and the like):
      board$ mnv3c device serve --port 9090
      ssh -N -L 9090:127.0.0.1:9090 board
      mnv3c device ping rpc://127.0.0.1:9090
    Several devices behind a tracker:
      python -m tvm.exec.rpc_tracker --host 127.0.0.1 --port 9190
      mnv3c device serve --tracker 127.0.0.1:9190 --key pixel
      mnv3c device list tracker://127.0.0.1:9190

    TVM's RPC has no authentication: whoever reaches a server's port can run any code there. Servers listen
    on 127.0.0.1 unless told otherwise.
    """


@command.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Interface to listen on.")
@click.option("--port", default=9090, show_default=True, help="0 takes any that is free.")
@click.option("--key", default="", help="Kind of device; clients of a tracker ask for it.")
@click.option("--tracker", metavar="HOST:PORT", help="Offer the device there; needs --key.")
@click.option("--announce", metavar="HOST", help="Host that the tracker tells clients, if it sees another.")
def serve(host: str, port: int, key: str, tracker: str | None, announce: str | None) -> None:
    """Run TVM's own RPC server here, for a board with Python and TVM's wheel; Ctrl-C ends it.

    TVM's RPC has no authentication: whoever reaches the port can run any code as this user.
    """
    output = Output()
    place = parse_host_port(tracker, "--tracker") if tracker else None
    from mnv3c.tuning.devices import tvm_server

    output.note(_UNGUARDED)

    def ready(bound: int) -> None:
        # Lines that scripts read must not wait in a buffer.
        print(f"listening on {host}:{bound}", flush=True)

    tvm_server.serve(host, port, key, place, announce, ready)


def parse_host_port(text: str, option: str) -> tuple[str, int]:
    """``HOST:PORT``; raises ``Mnv3cError`` naming ``option``."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Mnv3cError(f"{text!r} is not HOST:PORT", option)
    return host, int(port)


@command.command()
@click.option("-o", "--output", "directory", metavar="DIR", required=True, help="Folder to write.")
@click.option("--cc", metavar="COMMAND", help="C compiler for 64-bit Arm. Default: the first that works.")
@click.option(
    "--wheels", metavar="DIR", help="Folder with TVM's aarch64 wheels, instead of downloading them."
)
@json_option
def build(directory: str, cc: str | None, wheels: str | None, as_json: bool) -> None:
    """Build a small device server that needs no Python, for phones and boards of 64-bit Arm.

    The folder holds the server, TVM's runtime library (out of the aarch64 wheels of the package index) and a
    script that starts it, and the GNU libraries that a phone lacks. Copy it to a board as it is, or to a
    phone with `mnv3c device push`.
    """
    output = Output(as_json)
    from mnv3c.tuning.devices import deploy

    with output.progress() as progress:
        made = deploy.build(
            Path(directory), cc=cc, wheels=Path(wheels) if wheels is not None else None, progress=progress
        )
    facts = {"directory": str(made.directory), "android": made.android, "compiler": made.compiler}
    output.result({"ok": True, **facts, "notes": list(made.notes)})
    for note in made.notes:
        output.note(note)
    output.text(f"[bold green]{plain(made.directory)}[/]  device server, built with {plain(made.compiler)}")
    if made.android:
        output.text(f"  phone  mnv3c device push {plain(made.directory)} --adb --start")
    output.text(
        f"  board  scp -r {plain(made.directory)} board: && ssh board {plain(made.directory.name)}/run.sh"
    )
    output.text(f"  {_UNGUARDED}")


@command.command()
@click.argument("directory", metavar="DIR")
@click.option("--adb", "use_adb", is_flag=True, help="To a phone on USB, with Android's adb.")
@click.option("--serial", help="Which phone, where adb sees several.")
@click.option("--port", default=9090, show_default=True, help="Of the server, on the phone and here.")
@click.option("--start", is_flag=True, help="Start the server there, until Ctrl-C.")
def push(directory: str, use_adb: bool, serial: str | None, port: int, start: bool) -> None:
    """Put the server of `mnv3c device build` on a phone and forward its port to this machine."""
    output = Output()
    if not use_adb:
        raise Mnv3cError("say how: --adb", "device push")
    from mnv3c.tuning.devices import deploy

    starter = deploy.push(Path(directory), serial, port=port)
    output.text(f"pushed to {deploy.PHONE_FOLDER}, port {port} is forwarded")
    output.text(f"  ping   mnv3c device ping rpc://127.0.0.1:{port}")
    if not start:
        output.text(f"  start  {plain(' '.join(starter))}")
        return
    code = subprocess.run(starter, check=False).returncode
    if code:
        raise Mnv3cError(f"the server on the phone ended with {code}", "adb")


@command.command("list")
@click.argument("address", metavar="tracker://HOST:PORT")
@json_option
def list_devices(address: str, as_json: bool) -> None:
    """Show the devices that a tracker has, and how many wait for work."""
    output = Output(as_json)
    from mnv3c.tuning.devices import tracker

    prefix = "tracker://"
    if not address.startswith(prefix):
        raise Mnv3cError(f"{address!r} is not tracker://HOST:PORT", "ADDRESS")
    host, port = parse_host_port(address.removeprefix(prefix).rstrip("/"), "ADDRESS")
    found = tracker.summary(host, port)
    facts = [
        {"key": d.key, "addresses": list(d.addresses), "free": d.free, "clients_waiting": d.pending}
        for d in found
    ]
    output.result({"ok": True, "devices": facts})
    table = output.table(f"tracker {host}:{port}", "key", "servers", "free", "clients waiting", right=2)
    for d in found:
        table.add_row(plain(d.key), plain(", ".join(d.addresses)), str(d.free), str(d.pending))
    output.text(table if found else "the tracker has no device")


@command.command()
@click.argument("address", metavar="ADDRESS")
@click.option("--cc", metavar="COMMAND", help="C compiler for 64-bit Arm. Default: the first that works.")
@click.option("--wait", default=10.0, show_default=True, help="Seconds to wait for the device.")
@json_option
def ping(address: str, cc: str | None, wait: float, as_json: bool) -> None:
    """Load a shared object on the device at ADDRESS, call it, and show which core answers.

    ADDRESS is rpc://HOST:PORT or tracker://HOST:PORT/KEY; with ?cpus=4-7 behind it, one of those cores
    answers.
    """
    output = Output(as_json)
    from mnv3c import targets
    from mnv3c.tuning.devices import Timing, with_cpus
    from mnv3c.tuning.devices.rpc import RpcDevice, parse_address

    where, timing = with_cpus(address, Timing())
    place = parse_address(where, "ADDRESS")
    device = RpcDevice(place, targets.get("arm64"), cc=cc, patience=wait, timing=timing)
    try:
        seconds, identity = device.ping()
        facts = {"core": identity.core, "emulated": identity.emulated, "seconds": round(seconds, 6)}
        output.result({"ok": True, "device": device.name, **facts})
        output.text(f"[bold green]{plain(device.name)}[/]  answers in {seconds * 1e3:.1f} ms")
        if identity.emulated:
            output.note("an emulated device: its times say nothing about a core")
    finally:
        device.close()
