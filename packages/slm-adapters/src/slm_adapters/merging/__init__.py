"""Writing merged models and comparing their logits with the adapter's."""
