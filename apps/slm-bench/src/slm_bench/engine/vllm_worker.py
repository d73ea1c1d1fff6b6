"""vLLM in a process, and where need be an environment, of its own: a line of JSON in, a line out.

Run as ``python vllm_worker.py MODEL DTYPE LONGEST SEQUENCES``. It imports nothing of this project. A request line is
``{"prompts": [[ids], ...], "new": [counts]}``, the answer ``{"tokens": [[ids], ...]}``; the first line it writes says
which version is ready. What vLLM itself prints goes to the standard error.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main(model: str, dtype: str, longest: str, sequences: str) -> None:
    """Answer request lines until there are no more."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import vllm

    engine: Any = vllm.LLM(
        model=model,
        dtype=dtype,
        max_model_len=int(longest),
        max_num_seqs=int(sequences),
        enforce_eager=True,
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        disable_log_stats=True,
    )
    _say(replies, {"version": vllm.__version__})
    for line in sys.stdin:
        asked = json.loads(line)
        wanted = [
            vllm.SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
            for new in asked["new"]
        ]
        prompts = [{"prompt_token_ids": prompt} for prompt in asked["prompts"]]
        found = engine.generate(prompts, wanted, use_tqdm=False)
        _say(replies, {"tokens": [list(one.outputs[0].token_ids) for one in found]})


def _say(replies: Any, answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=replies, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
