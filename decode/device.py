"""What this process runs on, as datasets, calibrations and benches record it."""

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def device_facts(device: "torch.device | None" = None) -> dict[str, Any]:
    """{type, name, threads} of a device; by default of the one that `auto` would choose."""
    import torch  # not before it is needed: compiling and choosing costs ask for the processor only

    cuda = device.type == "cuda" if device is not None else torch.cuda.is_available()
    name = torch.cuda.get_device_name(device) if cuda else cpu_name()
    return {"type": "cuda" if cuda else "cpu", "name": name, "threads": torch.get_num_threads()}


def cores() -> int:
    """How many CPU cores this process may use: by its affinity and its control groups' quotas, rounded down."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(int(min(count, *_quotas())), 1)


def _quotas() -> list[float]:
    """Cores that each control group around this process may use, of version 1 and 2; infinity where there is none."""
    found = [float("inf")]
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup", controllers and "cpu")
        inner = root / path.strip("/")
        for folder in (inner, *inner.parents) if inner.is_dir() else (root,):  # a container sees its own as the root
            numbers = _lines(folder / "cpu.max") or [
                " ".join(line for name in ("quota", "period") for line in _lines(folder / f"cpu.cfs_{name}_us"))
            ]
            quota, _, period = numbers[0].partition(" ")
            if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):  # no limit: max, or -1
                found.append(int(quota) / int(period))
            if folder == root:
                break
    return found


def spent_by_all() -> float | None:
    """Seconds that all cores of this machine have been busy, other machines' steal included; None where not told."""
    try:
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, _lines("/proc/stat")[0].split()[1:9])
    except (IndexError, ValueError):
        return None
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


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
    return _lines("/proc/cpuinfo")


def _lines(path: str | Path) -> list[str]:
    """A file's lines; none where there is no such file."""
    try:
        return Path(path).read_text("utf-8").splitlines()
    except OSError:
        return []
