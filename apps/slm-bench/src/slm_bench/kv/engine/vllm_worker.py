"""vLLM in a separate process, and if necessary a separate environment: one line of JSON per request and reply.

Run as ``python vllm_worker.py MODEL DTYPE MAX_TOKENS SEQUENCES``. It imports nothing of this project. A request is
``{"prompts": [[ids], ...], "new": [counts]}``, its reply ``{"tokens": [[ids], ...]}``. The first line it writes is
``{"version": ...}``, once vLLM is ready. vLLM's own output goes to standard error.
"""

import json
import os
import sys
from typing import Any


def main(model: str, dtype: str, max_tokens: str, sequences: str) -> None:
    """Answer requests until standard input is closed."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints to standard output, which carries the replies
    import vllm

    engine: Any = vllm.LLM(
        model=model,
        dtype=dtype,
        max_model_len=int(max_tokens),
        max_num_seqs=int(sequences),
        enforce_eager=True,
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        disable_log_stats=True,
    )
    _reply(replies, {"version": vllm.__version__})
    for line in sys.stdin:
        request = json.loads(line)
        sampling = [
            vllm.SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
            for new in request["new"]
        ]
        prompts = [{"prompt_token_ids": prompt} for prompt in request["prompts"]]
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        _reply(replies, {"tokens": [list(output.outputs[0].token_ids) for output in outputs]})


def _reply(replies: Any, message: dict[str, Any]) -> None:
    print(json.dumps(message), file=replies, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
