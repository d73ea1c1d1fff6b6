#!/usr/bin/env bash
# Trains LoRA on a 4-bit base with gradient checkpointing, for the smallest memory. Additional flags of slm-train take
# precedence: scripts/qlora.sh --model_path gpt2
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-train --mode qlora \
    --lora_r 16 --lora_alpha 32 --gradient_checkpointing --output_dir outputs/qlora "$@"
