#!/usr/bin/env bash
# Serves the built-in base model. Additional flags of slm-serve take precedence:
# scripts/serve.sh --adapter stories=outputs/lora
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-serve \
    --model_path sample --page_size 16 --max_pages 1024 --max_sequences 32 "$@"
