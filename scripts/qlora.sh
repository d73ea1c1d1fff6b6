#!/usr/bin/env bash
# LoRA over a base in 4 bits, for least memory. Flags of slm-train follow and win: scripts/qlora.sh --model_path gpt2
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-train --mode qlora \
    --lora_r 16 --lora_alpha 32 --gradient_checkpointing --output_dir outputs/qlora "$@"
