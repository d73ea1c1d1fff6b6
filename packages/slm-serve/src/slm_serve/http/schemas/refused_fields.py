"""Fields of OpenAI's API, of vLLM and of other servers that would change the answer, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping

from slm_serve.http.schemas.lenience import Unsupported, refused

_LEAVE_OUT = "leave it out"
_TEXT_ONLY = "the models read and write text only, so leave it out"
_OLDER_TOOLS = "use tools and tool_choice"
_ANY_OUTPUT = "use response_format or structured_outputs"

SAMPLING_FIELDS: Mapping[str, Unsupported] = {
    "use_beam_search": refused("set temperature to 0 for the most likely tokens"),
    "num_beams": refused("set temperature to 0 for the most likely tokens", 1),
    "do_sample": Unsupported("set temperature to 0 instead", (True,)),
    "length_penalty": refused("it is for beam search, so leave it out", 1),
    "include_stop_str_in_output": refused("append the stop string to the text"),
    "skip_special_tokens": Unsupported("texts contain no special tokens, so leave it out", (True,)),
    "allowed_token_ids": refused(_LEAVE_OUT),
    "bad_words": refused(_LEAVE_OUT),
    "logits_processors": refused(_LEAVE_OUT),
    "vllm_xargs": refused(_LEAVE_OUT),
    "truncate_prompt_tokens": Unsupported("shorten the prompt, or start the server with --truncate_prompt", (-1,)),
    "prompt_logprobs": Unsupported("use /v1/completions with echo and logprobs", ()),
    "return_tokens_as_token_ids": refused("use /tokenize"),
    "return_token_ids": refused("use /tokenize"),
    "thinking_token_budget": Unsupported("set max_tokens instead", ()),
    "thinking": refused("set max_tokens instead", {"type": "disabled"}),
    # Other servers' names
    "typical_p": refused("use top_p or min_p", 1),
    "tfs_z": refused("use top_p or min_p", 1),
    "top_a": refused("use top_p or min_p", 0),
    "mirostat": refused("use temperature", 0),
    "repeat_penalty": refused("use repetition_penalty", 1),
    "n_predict": Unsupported("use max_tokens", (-1,)),
    "num_predict": Unsupported("use max_tokens", (-1,)),
    "max_new_tokens": Unsupported("use max_tokens", ()),
    "stop_sequences": refused("use stop"),
    "options": refused("send temperature, max_tokens and so on as fields of the body"),
    "adapter": refused("use model"),
    "use_cache": Unsupported("use /generate", (True,)),
}

OUTPUT_FORMATS: Mapping[str, Unsupported] = {
    "grammar": refused(_ANY_OUTPUT),
    "json_schema": refused(_ANY_OUTPUT),
    "format": refused(_ANY_OUTPUT),
}

CHAT_FIELDS: Mapping[str, Unsupported] = {
    **SAMPLING_FIELDS,
    **OUTPUT_FORMATS,
    "functions": refused(_OLDER_TOOLS),
    "function_call": refused(_OLDER_TOOLS, "none", "auto"),
    "audio": refused(_TEXT_ONLY),
    "modalities": refused(_TEXT_ONLY, ["text"]),
    "prediction": refused(_LEAVE_OUT),
    "moderation": refused(_LEAVE_OUT),
    "web_search_options": Unsupported("put what the model should know into a message", ()),
    "documents": refused("put the documents into a message"),
    "chat_template": refused("store the template with the model's tokenizer"),
    "mm_processor_kwargs": refused(_TEXT_ONLY),
    "echo": refused("use /v1/completions"),
    "best_of": refused("use n", 1),
    "prompt": refused("use messages, or /v1/completions"),
    "suffix": refused("use /v1/completions"),
}

COMPLETION_FIELDS: Mapping[str, Unsupported] = {
    **SAMPLING_FIELDS,
    **OUTPUT_FORMATS,
    "best_of": refused("use n, and choose among the texts", 1),
    "suffix": refused("the models only continue texts, so leave it out"),
    "prompt_embeds": refused("use prompt"),
    "tools": refused("use /v1/chat/completions"),
    "tool_choice": refused("use /v1/chat/completions", "none", "auto"),
    "functions": refused("use /v1/chat/completions"),
    "function_call": refused("use /v1/chat/completions", "none", "auto"),
    "audio": refused(_TEXT_ONLY),
    "modalities": refused(_TEXT_ONLY, ["text"]),
    "messages": refused("use /v1/chat/completions"),
    "top_logprobs": refused("use logprobs", 0),
    "max_completion_tokens": Unsupported("use max_tokens", ()),
}

MESSAGE_FIELDS: Mapping[str, Unsupported] = {
    "audio": refused(_TEXT_ONLY),
    "prefix": refused("set continue_final_message of the request to true"),
    "images": refused(_TEXT_ONLY),
}
