"""From token ids to training rows: packing, batches, token budgets, streaming."""
