#!/usr/bin/env bash
# Streams a completion with a paged cache. Additional flags of slm-paged take precedence:
# scripts/paged.sh --prompt "A red fox"
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-paged \
    --max_new_tokens 80 --page_size 64 --max_pages 6 --temperature 0.9 --repetition_penalty 1.1 "$@"
