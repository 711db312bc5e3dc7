"""Which device does the work."""

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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} can't be used: {reason}: try auto, cpu, cuda or mps") from error
    return device


def describe_device(device: torch.device) -> str:
    """The device in words, for the log."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(device)
