"""Counting on a CPU the operations that a GPU would be given, and those that a GPU would be waited for."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# They copy a number to the host, or depend on how many elements a condition selects: a GPU is waited for.
WAITING_OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")
# They give another view of a tensor, and nothing to compute.
VIEWS = (
    "view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "slice", "select", "split", "detach",
    "split_with_sizes", "unsqueeze", "squeeze", "alias", "as_strided", "unbind", "empty", "empty_like", "new_empty",
    "lift_fresh", "_reshape_alias", "is_pinned", "sym_size", "chunk",
)  # fmt: skip


class OperationCounts(TorchDispatchMode):
    """Counts the operations within its context.

    Attributes:
        operations: The names of those that compute or copy something.
        waits: The names of those that would wait for a GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put_", "index_put") else ()
        selects = any(each is not None and str(each.dtype) == "torch.bool" for each in indices)
        if name.startswith(WAITING_OPERATIONS) or selects:
            self.waits.append(name)
        if name not in VIEWS:
            self.operations.append(name)
        return func(*args, **(kwargs or {}))
