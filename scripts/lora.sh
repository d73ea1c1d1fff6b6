#!/usr/bin/env bash
# Trains LoRA. Additional flags of slm-train take precedence: scripts/lora.sh --dataset tinystories
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-train --mode lora \
    --lora_r 16 --lora_alpha 32 --output_dir outputs/lora "$@"
