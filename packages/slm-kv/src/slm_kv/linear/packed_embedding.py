"""An embedding that is tied to a packed head and reads its rows there, so that the weight is stored once."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from slm_kv.linear.packed_linear import PackedLayer, Weightless


class PackedEmbedding(Weightless):
    """Looks up rows of the weight of ``head``, which must have ``has_rows``. For inference on a CPU."""

    def __init__(self, head: PackedLayer) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = head.out_features, head.in_features
        self._rows = head.rows  # the method only: as an attribute the head would be registered as a submodule

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids [...] to [..., I].

        Raises:
            IndexError: an id is outside of the vocabulary.
        """
        if ids.numel() and not 0 <= ids.numpy().min() <= ids.numpy().max() < self.num_embeddings:
            raise IndexError("index out of range in self")  # the message of torch's own embedding
        return self._rows(ids.flatten()).view(*ids.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


def embedding_weight(model: Any) -> Tensor:
    """The weight of the input embeddings; of packed ones, another parameter of the same dtype and device."""
    weight: Tensor | None = getattr(model.get_input_embeddings(), "weight", None)
    return next(model.parameters()) if weight is None else weight
