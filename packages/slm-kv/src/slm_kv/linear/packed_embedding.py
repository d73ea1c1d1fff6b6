"""An embedding that is tied to a packed head and reads its rows there: the weight is held once."""

from __future__ import annotations

from torch import Tensor

from slm_kv.linear.packed_linear import PackedLayer, Weightless


class PackedEmbedding(Weightless):
    """Rows of the weight of ``head``, which must have ``gives_rows``. For inference on a CPU: no parameters."""

    def __init__(self, head: PackedLayer) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = head.out_features, head.in_features
        self._rows = head.rows  # of the head itself this would be another place in the model

    def forward(self, ids: Tensor) -> Tensor:
        """[..., I] for whole numbers [...]. Raises IndexError for one that is none of the vocabulary's."""
        if ids.numel() and not 0 <= ids.numpy().min() <= ids.numpy().max() < self.num_embeddings:
            raise IndexError("index out of range in self")  # torch's own words
        return self._rows(ids.flatten()).view(*ids.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"
