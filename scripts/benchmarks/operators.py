"""How many operators a piece of work consists of: about as many kernels are launched for it on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

ONLY_ALLOCATE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class _Counted(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func.overloadpacket.__name__ in ONLY_ALLOCATE)
        return func(*args, **(kwargs or {}))


def operators(work: Callable[[], Any]) -> int:
    """The operators that torch dispatches in a call: neither views nor plain allocations, backward included."""
    with _Counted() as counted:
        work()
    return counted.count
