"""Which device does the work."""

from pathlib import Path

import torch

from sioconv.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """`auto` takes cuda, then mps, then cpu; any other name is taken as it is.

    Raises `UserError` for a name that torch doesn't know or a device that this machine doesn't have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # `meta` makes tensors, but there is nothing in them
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, AttributeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"device {name!r} can't be used: {reason}: try auto, cpu, cuda or mps") from error
    return device


def memory_of(device: torch.device) -> int | None:
    """Bytes that a device has, in use or not; for a CPU with what can be swapped out. None where it isn't known."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu" or not Path("/proc/meminfo").exists():
        return None
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return 1024 * sum(int(facts[key].split()[0]) for key in ("MemTotal", "SwapTotal"))


def describe_device(device: torch.device) -> str:
    """The device in words, for the log."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(device)
