"""What this process runs on, as datasets, calibrations and benches record it."""

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lede.decode.model import Model


def device_facts(model: "Model | None" = None) -> dict[str, Any]:
    """{type, name, threads} of the device that decodes `model`; without one, of the device that `auto` would choose."""
    import torch  # not before it is needed: compiling and choosing costs ask for the processor only

    cuda = model.device.type == "cuda" if model is not None else torch.cuda.is_available()
    name = torch.cuda.get_device_name(model.device if model is not None else None) if cuda else cpu_name()
    return {"type": "cuda" if cuda else "cpu", "name": name, "threads": torch.get_num_threads()}


def cpu_name() -> str:
    """The processor's own name where the system tells it, else its kind."""
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_features() -> str:
    """The processor's name and instruction sets: what code compiled for this machine depends on."""
    wanted = sorted({line for line in _cpuinfo() if line.startswith(("model name", "flags", "Features"))})
    return "\n".join(wanted) or f"{platform.machine()} {platform.processor()}"


def _cpuinfo() -> list[str]:
    """Lines of /proc/cpuinfo; none where the system has no such file."""
    try:
        return Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return []
