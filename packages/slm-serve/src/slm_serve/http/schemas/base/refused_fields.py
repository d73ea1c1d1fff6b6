"""Fields of OpenAI's API, of vLLM and of other servers that would change the answer, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping

from slm_serve.http.schemas.base.lenience import Unsupported, refused

_LEAVE_OUT = "leave it out"
_TEXT_ONLY = "the models read and write text only, so leave it out"
_OLDER_TOOLS = "use tools and tool_choice"
_CHAT = "use /v1/chat/completions"
_PREFIX = "send it as the assistant's last message, with continue_final_message"
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
    "typical": refused("use top_p or min_p", 1),
    "tfs": refused("use top_p or min_p", 1),
    "epsilon_cutoff": refused("use top_p or min_p", 0),
    "eta_cutoff": refused("use top_p or min_p", 0),
    "top_n_sigma": refused("use top_p or min_p", 0, -1),
    "xtc_probability": refused("use top_p or min_p", 0),
    "mirostat": refused("use temperature", 0),
    "mirostat_mode": refused("use temperature", 0),
    "smoothing_factor": refused("use temperature", 0),
    "dynatemp_range": refused("use temperature", 0),
    "dynamic_temperature": refused("use temperature"),
    "penalty_alpha": refused("use temperature and top_p", 0),
    "dry_multiplier": refused("use repetition_penalty", 0),
    "no_repeat_ngram_size": refused("use repetition_penalty", 0),
    "encoder_repetition_penalty": refused("use repetition_penalty", 1),
    "guidance_scale": refused(_LEAVE_OUT, 1),
    "cfg_scale": refused(_LEAVE_OUT, 1),
    "negative_prompt": refused(_LEAVE_OUT),
    "random_seed": Unsupported("use seed", ()),
    "min_new_tokens": refused("use min_tokens", 0),
    "min_length": refused("use min_tokens", 0),
    "max_length": Unsupported("use max_tokens", ()),
    "max_output_tokens": Unsupported("use max_tokens", ()),
    "ban_eos_token": refused("use ignore_eos"),
    "banned_tokens": refused("use logit_bias"),
    "banned_strings": refused(_LEAVE_OUT),
    "custom_token_bans": refused("use logit_bias"),
    "stop_words": refused("use stop"),
    "repeat_penalty": refused("use repetition_penalty", 1),
    "n_predict": Unsupported("use max_tokens", (-1,)),
    "num_predict": Unsupported("use max_tokens", (-1,)),
    "max_new_tokens": Unsupported("use max_tokens", ()),
    "stop_sequences": refused("use stop"),
    "options": refused("send temperature, max_tokens and so on as fields of the body"),
    "adapter": refused("use model"),
    "adapters": refused("use model"),
    "lora": refused("use model"),
    "lora_request": refused("use model"),
    "use_cache": Unsupported("use /generate", (True,)),
}

OUTPUT_FORMATS: Mapping[str, Unsupported] = {
    "grammar": refused(_ANY_OUTPUT),
    "json_schema": refused(_ANY_OUTPUT),
    "format": refused(_ANY_OUTPUT),
    "schema": refused(_ANY_OUTPUT),
    "regex": refused(_ANY_OUTPUT),
    "ebnf": refused(_ANY_OUTPUT),
    "guided_whitespace_pattern": refused(_LEAVE_OUT),
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
    "data_sources": refused("put what the model should know into a message"),
    "files": refused("put the text of the files into a message"),
    "images": refused(_TEXT_ONLY),
    "system": refused("send it as a message of the role 'system'"),
    "instructions": refused("send them as a message of the role 'system'"),
    "input": refused("use messages, or /v1/responses"),
    "prefill": refused(_PREFIX),
    "response_prefix": refused(_PREFIX),
    "add_special_tokens": refused("the chat template writes them, so leave it out"),
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
    "messages": refused(_CHAT),
    "tools": refused(_CHAT),
    "tool_choice": refused(_CHAT, "none", "auto"),
    "functions": refused(_CHAT),
    "function_call": refused(_CHAT, "none", "auto"),
    "chat_template": refused(_CHAT),
    "chat_template_kwargs": refused(_CHAT),
    "continue_final_message": refused(_CHAT),
    "system": refused("write it into the prompt"),
    "input": refused("use prompt"),
    "images": refused(_TEXT_ONLY),
    "audio": refused(_TEXT_ONLY),
    "modalities": refused(_TEXT_ONLY, ["text"]),
    "top_logprobs": refused("use logprobs", 0),
    "max_completion_tokens": Unsupported("use max_tokens", ()),
}

MESSAGE_FIELDS: Mapping[str, Unsupported] = {
    "audio": refused(_TEXT_ONLY),
    "prefix": refused("set continue_final_message of the request to true"),
    "partial": refused("set continue_final_message of the request to true"),
    "parts": refused("use content"),
    **dict.fromkeys(("images", "videos", "audios", "files", "attachments"), refused(_TEXT_ONLY)),
    "experimental_attachments": refused(_TEXT_ONLY),
}

FUNCTION_FIELDS: Mapping[str, Unsupported] = dict.fromkeys(
    ("input_schema", "inputSchema", "parametersJsonSchema", "args_schema", "schema"),
    Unsupported("use parameters", ()),
)

RESPONSE_FORMAT_FIELDS: Mapping[str, Unsupported] = {
    "value": refused("use schema"),
    "regex": refused("use structured_outputs"),
    "grammar": refused("use structured_outputs"),
}

EMBEDDING_FIELDS: Mapping[str, Unsupported] = {
    "messages": refused("use input"),
    "prompt": refused("use input"),
    "prompt_name": refused("write the prompt into the input"),
    "instruction": refused("write the instruction into the input"),
    "input_type": refused("write the model's prompt for it into the input"),
    "task": refused("write the model's prompt for it into the input"),
    "truncate": refused("shorten the input", "NONE"),
    "truncate_prompt_tokens": Unsupported("shorten the input", (-1,)),
    "truncation": refused("shorten the input"),
    "late_chunking": refused(_LEAVE_OUT),
    "normalize": Unsupported("embeddings are normalised, so leave it out", (True,)),
    "normalized": Unsupported("embeddings are normalised, so leave it out", (True,)),
    "use_activation": Unsupported("embeddings are normalised, so leave it out", (True,)),
    "pooling": Unsupported("embeddings are means, so leave it out", ("mean",)),
    "embedding_type": refused("use encoding_format", "float"),
    "embedding_types": refused("use encoding_format", ["float"]),
    "output_dtype": refused("use encoding_format", "float"),
    "embed_dtype": refused("use encoding_format", "float32"),
    "endianness": refused(_LEAVE_OUT, "native", "little"),
}
