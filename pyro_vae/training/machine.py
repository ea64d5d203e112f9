"""What a run was trained on: processor or graphics card, threads, torch, and the date."""

import functools
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what trains on this device, and the day: plain values for ``config.yaml``."""
    device = torch.device(device)
    card = {"card": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "date": date.today().isoformat(),
        "device": str(device),
        **card,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


@functools.cache
def _processor() -> str:
    """Return the processor's model where the system tells it, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except (OSError, ValueError):
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine() or "unknown processor"
