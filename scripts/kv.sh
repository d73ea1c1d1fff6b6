#!/usr/bin/env bash
# Measures what a key-value cache gains. Flags of slm-bench kv follow and win: scripts/kv.sh --model_path outputs/lora
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-bench kv \
    --prompt "Tell me a short story about robots." --max_new_tokens 128 --rounds 5 "$@"
