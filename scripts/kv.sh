#!/usr/bin/env bash
# Compares generation with and without a key-value cache. Additional flags of slm-bench kv take precedence:
# scripts/kv.sh --model_path outputs/lora
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-bench kv \
    --prompt "Tell me a short story about robots." --max_new_tokens 128 --rounds 5 "$@"
