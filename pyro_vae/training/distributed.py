"""Several processes, one per device, that train one pair and average their gradients.

Lightning Fabric starts them or finds those that ``torchrun`` or SLURM started;
``torch.distributed`` connects them. Each takes its share of the global batch, and one all-reduce
per step adds up the shares' results, weighted by their numbers of data. docs/scale.md has the
arithmetic.
"""

import atexit
import datetime
import logging
import os
import warnings

import torch
import torch.distributed as dist
import torch.distributed.nn  # imported later, its functions would hold the group, and with it threads, past the end

from pyro_vae.svi import World
from pyro_vae.training.settings import SettingsError

MOST_ON_CPU = 8  # processes, on a machine with fewer cores: enough to try out what several do
PATIENCE = datetime.timedelta(minutes=10)  # how long a process waits for another before it takes it for dead


def join(devices: int, device: str) -> World:
    """Return the processes of this job, after starting them if that is asked for.

    Args:
        devices: processes on this machine; 1 means no others, unless ``torchrun`` or SLURM has
            started some.
        device: cpu, cuda or auto.

    Raises:
        SettingsError: when there are not so many devices, or SLURM's settings do not allow it.
    """
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), _device)
    found = launched()
    if found is None and devices > 1:
        _refuse_too_many(devices, device)
    here, machines = found or (devices, 1)
    if here * machines == 1:
        return World()
    return _start(here, machines, device)


def _refuse_too_many(devices: int, device: str) -> None:
    """Refuse to start more processes than this machine has devices, before the first is started."""
    cuda = _on_cuda(device)
    most = torch.cuda.device_count() if cuda else max(MOST_ON_CPU, os.cpu_count() or 1)
    if devices > most:
        raise SettingsError(
            f"devices is {devices}, and this machine can use {most} {'GPUs' if cuda else 'processes on its CPUs'}; "
            "lower --devices"
        )


def _on_cuda(device: str) -> bool:
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def launched() -> tuple[int, int] | None:
    """Return (processes per machine, machines) if torchrun or SLURM started this process, else
    None.
    """
    e = os.environ
    if dist.is_available() and dist.is_torchelastic_launched():
        here = int(e["LOCAL_WORLD_SIZE"])
        return here, int(e["WORLD_SIZE"]) // here
    # Fabric's `SLURMEnvironment.detect` also takes a named shell inside an allocation for a task of it, and importing
    # Fabric takes seconds, which a single process need not pay.
    interactive = e.get("SLURM_JOB_NAME") in ("bash", "interactive")  # a shell inside an allocation, not a task of it
    if "SLURM_PROCID" in e and not interactive and (tasks := int(e.get("SLURM_NTASKS", 1))) > 1:
        machines = int(e.get("SLURM_NNODES", 1))
        return int(e.get("SLURM_NTASKS_PER_NODE", tasks // machines)), machines
    return None


_device: torch.device | None = None


def _start(here: int, machines: int, device: str) -> World:
    global _device
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Fabric and what it imports: advice on loaders that are not used here
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy

        for name in ("lightning_fabric", "lightning.fabric", "lightning_fabric.utilities.rank_zero"):
            logging.getLogger(name).setLevel(logging.WARNING)
        cuda = _on_cuda(device)
        try:
            fabric = Fabric(
                accelerator="cuda" if cuda else "cpu",
                devices=here,
                num_nodes=machines,
                strategy=DDPStrategy(process_group_backend="nccl" if cuda else "gloo", timeout=PATIENCE),
            )
            fabric.launch()
        except Exception as error:
            reason = " ".join(str(error).split())
            raise SettingsError(
                f"cannot run on {here} devices of {machines} machines: {reason}; change --devices"
            ) from error
    if not cuda:  # gloo's threads may hold the last tensor of an exchange, which aborts the process if Python has ended
        atexit.register(dist.destroy_process_group)
    _device = fabric.device
    return World(fabric.global_rank, fabric.world_size, _device)
