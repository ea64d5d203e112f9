"""Runs the command line in forked processes and does to them what power cuts, operators and full disks do.

A process that has imported everything once, so that each try costs a fork and not four seconds of imports. It reads a request a line
and answers with a line; `faults.py` speaks to it.
"""

import builtins
import contextlib
import errno
import json
import os
import resource
import signal
import socket
import sys
import tempfile
import time
import warnings

import torch

import pyro_vae.cli.commands


def main() -> None:
    torch.set_num_threads(1)
    warm_up()
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)


def warm_up() -> None:
    """Run every command once, so that forks find imported what these import late."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning_fabric.strategies  # noqa: F401
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(sys.stderr):
        tiny = ["--latent", "2", "--hidden", "[4]", "--binarize", "dynamic", "--epochs", "10", "--batch_size", "100"]
        assert (
            pyro_vae.cli.commands.main(["train", "latent", *tiny, "--run", f"{place}/run"]) == 0
        )  # recorded, not compiled
        assert pyro_vae.cli.commands.main(["resume", f"{place}/run", "--json"]) == 0


def serve(request: dict) -> dict:
    """Run `argv` in `processes` children, kill one of them as told, and return how each ended and what it said."""
    with tempfile.TemporaryDirectory() as place:
        count = request.get("processes", 1)
        port = free_port() if count > 1 else 0
        begun = time.monotonic()
        children = [fork(request, rank, count, port, place) for rank in range(count)]
        statuses: dict[int, int] = {}
        victim, after = children[request.get("victim", 0)], request.get("after")
        deadline = begun + request.get("timeout", 300)
        killed = False
        while len(statuses) < count:
            for pid in children:
                if pid not in statuses:
                    done, status = os.waitpid(pid, os.WNOHANG)
                    if done:
                        statuses[pid] = os.waitstatus_to_exitcode(status)
            now = time.monotonic()
            if after is not None and not killed and now - begun >= after and victim not in statuses:
                os.kill(victim, request.get("signal", signal.SIGKILL))
                killed = True
            if now > deadline:
                for pid in set(children) - statuses.keys():
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
        texts = {f"{kind}{rank}": read(f"{place}/{kind}{rank}") for kind in ("out", "err") for rank in range(count)}
        ops = read(f"{place}/ops")
        return {
            "status": [statuses[pid] for pid in children],
            "out": [texts[f"out{rank}"] for rank in range(count)],
            "err": [texts[f"err{rank}"] for rank in range(count)],
            "seconds": time.monotonic() - begun,
            "late": time.monotonic() > deadline,
            "ops": int(ops) if ops else None,
        }


def fork(request: dict, rank: int, count: int, port: int, place: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.chdir(request["cwd"])
        for number, kind in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{place}/{kind}{rank}", os.O_WRONLY | os.O_CREAT), number)
        sys.stdout = builtins.open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = builtins.open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 (a killed process has said its lines)
        if count > 1:  # as torchrun would
            facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
            os.environ |= {name: str(value) for name, value in facts.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "faults"}
        if "file_size" in request:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], request["file_size"]))
        ops = Ops(request.get("kill_at_op"), request.get("fail_at_op"), request.get("errno", errno.ENOSPC))
        status = pyro_vae.cli.commands.main(request["argv"])
        if rank == 0:
            with builtins.open(f"{place}/ops", "w") as file:
                file.write(str(ops.count))
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Ops:
    """Counts what changes the run folder, and at one of these calls kills the process or lets the call fail.

    Killed before a write reaches the disk, the file is left half as long: what a power cut does to it.
    """

    def __init__(self, kill_at: int | None, fail_at: int | None, number: int) -> None:
        self.count, self.kill_at, self.fail_at, self.errno = 0, kill_at, fail_at, number
        for name in ("fsync", "replace", "link", "unlink", "open"):
            setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name, call):
        def step(*args, **kwargs):
            if name == "open" and not (len(args) > 1 and args[1] & os.O_CREAT):
                return call(*args, **kwargs)
            self.count += 1
            if self.count == self.kill_at:
                if name == "fsync" and os.fstat(args[0]).st_size and not os.path.isdir(f"/proc/self/fd/{args[0]}"):
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fail_at is not None and self.count >= self.fail_at and name != "unlink":
                raise OSError(self.errno, os.strerror(self.errno))
            return call(*args, **kwargs)

        return step


def read(path: str) -> str:
    try:
        with builtins.open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
