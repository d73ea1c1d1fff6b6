"""Help and flags of ``slm-adapters export``; imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """\
Write a model for llama.cpp and Ollama: a GGUF file and a Modelfile in the folder OUT. An adapter is merged into its
base first. The file is read back, and its logits are compared with the model's. What llama.cpp would compute or
tokenise otherwise is refused. Architectures: GPT-2, Llama, Mistral, SmolLM3, Qwen2, Qwen3, Gemma 2 and 3 (text),
GPT-NeoX, Phi-2, Phi-3, OLMo2, Granite. Needs the package gguf: pip install slm-adapters[gguf]"""
EXAMPLES = """\
examples:
  slm-adapters export outputs/butterfly exports/stories --to gguf
  slm-adapters export outputs/lora exports/stories-q8 --to gguf --dtype q8_0
  slm-adapters export outputs/lora exports/stories-lora --to gguf --adapter_only    (LoRA, for llama.cpp's --lora)
  slm-adapters export ./models/smollm2 exports/smollm2 --to gguf --dtype bf16

exit codes: 0 written; 1 written, but the logits differ by more than rounding explains; 2 refused, nothing written"""
DTYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")


def add_export_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.add_argument(
        "run", metavar="RUN", help="folder of a slm-train run, of a PEFT adapter or of a model, or the name of a base"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the files: new, or empty")
    parser.add_argument("--to", choices=("gguf",), default="gguf", help="file format. Default: %(default)s")
    parser.add_argument("--base", metavar="B", help="base model: a folder or a name. Default: the one that RUN records")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="f16",
        help="type of the matrices; q8_0 and q4_0 have 8 and 4 bits. Default: %(default)s",
    )
    parser.add_argument("--adapter_only", action="store_true", help="write a LoRA adapter without its base")
    parser.add_argument("--overwrite", action="store_true", help="replace an exported model that is in OUT")
    parser.add_argument("--probe", metavar="TEXT", help="compare the models on this text. Default: a built-in one")
