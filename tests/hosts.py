"""Hosts of their own on this machine, for root: each with an address, a name, a home and a /tmp, on one network.

A host is a set of Linux namespaces (network, mounts, processes, host name) which live as long as its first process, and
that one as long as the pipe from the test. So whatever becomes of the test, the kernel kills the host's other processes
with the first one, and takes its end of the network away. The switch between the hosts is one, too; the machine itself
has one cable to it, and nothing else is changed outside.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SHARED = Path("/srv/shared")  # in each host, the same folder
OWN = Path("/srv/own")  # in each host, a folder that no other host has
_SWITCH = "switch"
_NAMESPACES = ("mount", "uts", "net", "pid")


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    first: int  # the process that the namespaces live with

    @property
    def prefix(self) -> tuple[str, ...]:
        """What makes a command run in the host. It begins in /; signals reach it by its process group only."""
        return ("nsenter", f"--target={self.first}", *(f"--{kind}" for kind in _NAMESPACES), "--")

    @property
    def wire(self) -> tuple[str, ...]:
        """What gives a command the host's network alone; else it is a process of the machine's, with its files."""
        return ("nsenter", f"--target={self.first}", "--net", "--")


@dataclass(frozen=True)
class Network:
    machine: str  # address of the machine itself
    hosts: dict[str, Host]
    folder: Path
    _switch: Host

    @property
    def shared(self) -> Path:
        """On the machine, what is SHARED in the hosts."""
        return self.folder / "shared"

    def own(self, name: str) -> Path:
        """On the machine, what is OWN in that host."""
        return self.folder / name / "own"

    def cut(self, name: str) -> None:
        """Pulls a host's cable: it runs on, and neither side hears why nothing comes any more."""
        _ip(self._switch, "link", "set", name, "down")

    def mend(self, name: str) -> None:
        _ip(self._switch, "link", "set", name, "up")

    def ask_all(self, asker: str, name: str) -> list[tuple[int, str, str]]:
        """(port, question, answer) of `stranger.py` at every port on which that host listens to others."""
        listening = subprocess.run(
            [*self.hosts[name].wire, "ss", "-Htln"], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        ends = [line.split()[3].rpartition(":") for line in listening]
        ports = sorted({port for address, _, port in ends if not address.startswith(("127.", "[::1]"))})
        asking = [*self.hosts[asker].wire, sys.executable, "-m", "tests.stranger", self.hosts[name].address, *ports]
        said = subprocess.run(asking, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]).stdout
        return [tuple(json.loads(line)) for line in said.splitlines()]

    def commands(self, name: str) -> list[str]:
        """The command lines of a host's processes, or what they call themselves."""
        home = Path(f"/proc/{self.hosts[name].first}/ns/pid").readlink()
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                if Path(f"/proc/{process.pid}/ns/pid").readlink() == home:
                    found.append(" ".join(process.cmdline()))
        return found


def why_not() -> str:
    """What keeps this process from making hosts; empty where nothing does."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    if Path("/tmp") in (*Path(sys.executable).parents, *Path(__file__).parents):
        return "this checkout lies in /tmp, and each host has a /tmp of its own"
    if missing := [tool for tool in ("ip", "ss", "unshare", "nsenter", "mount") if shutil.which(tool) is None]:
        return f"there is no `{missing[0]}` here"
    tried = subprocess.run(
        [*_unshare(), "ip", "link", "add", "one", "type", "veth", "peer", "name", "other"],
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip().partition("\n")[0] if tried.returncode else ""


@contextmanager
def network(folder: Path, names: Sequence[str]) -> Iterator[Network]:
    """Hosts of these names, at most 15 letters each, which know one another's names and nobody else's.

    What they keep lies below `folder`, as long as that is kept.
    """
    (folder / "shared").mkdir(parents=True)
    subnet = _free_subnet()
    addresses = {name: f"{subnet}.{number}" for number, name in enumerate(names, start=10)}
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    (folder / "hosts").write_text("".join(f"{line}\n" for line in lines))
    (folder / "resolv.conf").write_text("")
    with ExitStack() as hosts:
        switch = hosts.enter_context(_host(folder, _SWITCH, ""))
        _ip(switch, "link", "add", "bridge", "type", "bridge")
        _ip(switch, "link", "set", "bridge", "up")
        made = {name: hosts.enter_context(_host(folder, name, address)) for name, address in addresses.items()}
        machine = Host("machine", f"{subnet}.1", os.getpid())
        for host in made.values():
            _plug_in(switch, host, "eth0")
        cable = f"hosts{os.getpid()}"
        _plug_in(switch, machine, cable)
        hosts.callback(_ip, machine, "link", "delete", cable)  # else it would go some time after the switch
        yield Network(machine.address, made, folder, switch)


def _plug_in(switch: Host, host: Host, end: str) -> None:
    """A cable from the switch's port of the host's name to the host, where its end has the host's address."""
    _ip(switch, "link", "add", host.name, "type", "veth", "peer", "name", end, "netns", str(host.first))
    _ip(switch, "link", "set", host.name, "master", "bridge", "up")
    _ip(host, "address", "add", f"{host.address}/24", "dev", end)
    _ip(host, "link", "set", end, "up")


@contextmanager
def _host(folder: Path, name: str, address: str) -> Iterator[Host]:
    """A host without a cable."""
    own = folder / name
    for place in ("tmp", "own"):
        (own / place).mkdir(parents=True)
    (own / "tmp").chmod(0o1777)
    steps = [
        ["hostname", name],
        ["ip", "link", "set", "lo", "up"],
        ["mount", "-t", "tmpfs", "none", "/dev/shm"],
        ["mount", "-t", "tmpfs", "none", "/srv"],
        ["mkdir", str(SHARED), str(OWN)],
        ["mount", "--bind", str(folder / "shared"), str(SHARED)],
        ["mount", "--bind", str(own / "own"), str(OWN)],
        ["mount", "--bind", str(folder / "hosts"), "/etc/hosts"],
        ["mount", "--bind", str(folder / "resolv.conf"), "/etc/resolv.conf"],
        ["mount", "--bind", str(own / "tmp"), "/tmp"],  # last: `folder` may lie in it
        ["echo", "ready"],
    ]
    # The first process of a host inherits its orphans; as it ignores their end, the kernel buries them.
    script = f"set -e; trap '' CHLD; {'; '.join(map(shlex.join, steps))}; exec cat"
    # In a session of its own, so that Ctrl-C doesn't reach it before the test has put its things in order.
    process = subprocess.Popen(
        [*_unshare(), "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n", f"host {name} could not be made"
        (first,) = psutil.Process(process.pid).children()
        yield Host(name, address, first.pid)
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def _unshare() -> list[str]:
    return ["unshare", *(f"--{kind}" for kind in _NAMESPACES), "--fork", "--kill-child", "--mount-proc"]


def _ip(host: Host, *command: str) -> None:
    """In the host's network alone, so that processes have the numbers that we know them by."""
    subprocess.run([*host.wire, "ip", *command], check=True)


def _free_subnet() -> str:
    """The first three numbers of addresses that this machine has no interface for."""
    taken = {entry.address.rpartition(".")[0] for entries in psutil.net_if_addrs().values() for entry in entries}
    return next(subnet for subnet in (f"10.77.{number}" for number in range(256)) if subnet not in taken)
