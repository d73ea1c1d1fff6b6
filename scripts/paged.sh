#!/usr/bin/env bash
# Streams a completion from a paged cache. Flags of slm-paged follow and win: scripts/paged.sh --prompt "A red fox"
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-paged \
    --max_new_tokens 80 --page_size 64 --max_pages 6 --temperature 0.9 --repetition_penalty 1.1 "$@"
