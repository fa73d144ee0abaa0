"""Runs the steps of cluster/Dockerfile in a clean Debian, for want of a container engine, and tries what came out.

    sudo python3 -m cluster.rehearse_image ROOT [--build-arg NAME=VALUE ...]

Needs root, debootstrap, util-linux and iproute2 on a Debian of the image's release; ROOT gets 8 GB, with PyTorch for
CUDA. The steps are read from the Dockerfile itself; check_image.sh then tries the result as the manifests run it, on a
root that can't be written, and without network. What differs from a build: Python is Debian's package of the same minor
version, in place of the one that the base image compiled; instead of a container there are a chroot and namespaces of
its own for mounts and processes; layers are not kept apart. Where packages come from (apt's sources, pip's and uv's
settings, certificates) is this machine's, and stays in ROOT.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from cluster.dockerfile import Step, copy_into, expanded, read_steps

HERE = Path(__file__).resolve().parent
_SETTINGS = ("PIP_", "UV_", "SSL_CERT", "REQUESTS_CA", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_BASE = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}


def main() -> None:
    options = _options()
    if "REHEARSAL" not in os.environ:  # once more, where mounts and processes end with this one
        again = [sys.executable, "-m", "cluster.rehearse_image", *sys.argv[1:]]
        os.environ["REHEARSAL"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--pid", "--fork", "--kill-child", *again])
    steps = read_steps(HERE / "Dockerfile")
    given = dict(pair.split("=", 1) for pair in options.build_arg)
    root = options.root.resolve()
    _prepare(root, _suite(steps, given))
    built = _build(root, steps, given, sys.maxsize if options.checks else options.line)
    _close(root)
    shutil.copy(HERE / "check_image.sh", root / "tmp")
    sys.exit(_run(root, "exec bash /tmp/check_image.sh", built, networked=False))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("root", type=Path, help="an empty or new folder, or one of an earlier rehearsal")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--line", type=int, default=0, help="go on with this line of the Dockerfile")
    parser.add_argument("--checks", action="store_true", help="check_image.sh alone, where the steps have run")
    return parser.parse_args()


def _suite(steps: list[Step], given: dict[str, str]) -> str:
    """The Debian release of the base image python:VERSION-slim-SUITE."""
    values: dict[str, str] = {}
    for step in steps:
        if step.word == "ARG":
            name, _, default = step.text.partition("=")
            values[name] = given.get(name, default)
        if step.word == "FROM":
            return expanded(step.text, values).rpartition("-")[2]
    sys.exit("the Dockerfile has no FROM")


def _prepare(root: Path, suite: str) -> None:
    """A clean Debian with this machine's ways to packages, and what a container finds mounted."""
    uri, sources = _apt_sources(suite)
    if not (root / "etc/debian_version").exists():
        wanted = "python3,python3-venv,python3-dev,ca-certificates"  # all that the base image has beyond Debian's own
        _sh(f"debootstrap --variant=minbase --include={wanted} {suite} {shlex.quote(str(root))} {shlex.quote(uri)}")
    (root / "etc/apt/sources.list").write_text(sources)
    for file in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(file).is_file():
            _sh(f"install -D --mode=644 {file} {shlex.quote(str(root) + file)}")
    inside = shlex.quote(str(root))
    _sh(f"mount --bind {inside} {inside}")
    _sh(f"mount -t proc proc {inside}/proc && mount --rbind --make-rslave /dev {inside}/dev")
    _sh(f"mount -t tmpfs -o mode=1777 shm {inside}/dev/shm && mount --rbind --make-rslave /sys {inside}/sys")


def _close(root: Path) -> None:
    """As the manifests run it: a root that can't be written, but for /tmp and the user's home, which are empty."""
    inside = shlex.quote(str(root))
    _sh(f"mount -o remount,bind,ro {inside} && mount -t tmpfs -o mode=1777 tmp {inside}/tmp")
    _sh(f"mount -t tmpfs -o uid=1000,gid=1000,mode=0700 home {inside}/home/rtnet")


def _apt_sources(suite: str) -> tuple[str, str]:
    """Debian's mirror, and the lines of apt's sources for this release, as this machine has them."""
    form = ["--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"]
    asked = ["apt-get", "indextargets", *form, "Created-By: Packages", "Origin: Debian"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [line for line in listed if line.split()[2].split("-")[0] == suite]
    if not ours:
        sys.exit(f"this machine's apt knows no Debian {suite}: apt-get update first, on a Debian of that release")
    return ours[0].split()[1], "\n".join(ours) + "\n"


def _build(root: Path, steps: list[Step], given: dict[str, str], first: int) -> dict[str, str]:
    """Runs the steps from the line `first` on; the environment that the image starts with, and its USER and FOLDER."""
    settings = {name: value for name, value in os.environ.items() if name.upper().startswith(_SETTINGS)}
    env = dict(_BASE)
    args: dict[str, str] = {}
    place = {"USER": "0", "FOLDER": "/"}
    for step in steps:
        if step.word in ("ENV", "ARG"):
            for name, value in step.pairs():
                known = args | env
                if step.word == "ENV":
                    env[name] = expanded(value, known)
                else:
                    args[name] = given.get(name, expanded(value, known))
        elif step.word == "WORKDIR":
            place["FOLDER"] = expanded(step.text, args | env)
            (root / place["FOLDER"].lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif step.word == "USER":
            place["USER"] = expanded(step.text, args | env)
        if step.line >= first:
            print(f"== line {step.line}: {step.word} {step.text}", flush=True)
            if step.word == "COPY":
                copy_into(root, place["FOLDER"], expanded(step.text, args | env), HERE.parent)
            elif step.word == "RUN" and (status := _run(root, step.text, settings | args | env | place)):
                sys.exit(f"line {step.line} ended with status {status}; go on with --line {step.line}")
    return env | place


def _run(root: Path, command: str, environment: dict[str, str], networked: bool = True) -> int:
    """In the root, as its USER, with this environment alone; the status."""
    user, folder = environment["USER"], environment["FOLDER"]
    pairs = [f"{name}={value}" for name, value in environment.items() if name not in ("USER", "FOLDER")]
    inner = ["chroot", f"--userspec={user}:{user}", "--groups=", str(root), "/usr/bin/env", "-i", *pairs]
    inner += ["/bin/sh", "-c", f"cd {shlex.quote(folder)} && {command}"]
    if not networked:
        inner = ["unshare", "--net", "sh", "-c", f"ip link set lo up && exec {shlex.join(inner)}"]
    return subprocess.run(inner).returncode


def _sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True)


if __name__ == "__main__":
    main()
