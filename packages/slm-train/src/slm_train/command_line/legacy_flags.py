"""The flags of the Trainer of 2023 (transformers 4) that transformers 5 no longer has, and what became of each.

OLD_FLAGS holds every field of TrainingArguments from 4.24 to 4.57 that 5.19 lacks, but for
``overwrite_output_dir``, which is a flag of this project.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

TRUE = {"true", "yes", "t", "y", "1", "on"}
FALSE = {"false", "no", "f", "n", "0", "off"}
ALL_STEPS = "0.9999999999"  # warmup_steps 1 is one step; this share, rounded up, is every step


class BadValue(ValueError):
    """One sentence: a value that a flag cannot have."""


@dataclass(frozen=True)
class Flag:
    """A flag and its values; ``said`` is what the user called it, before it was translated."""

    name: str
    values: tuple[str, ...]
    said: str

    @property
    def value(self) -> str:
        return self.values[0] if self.values else ""

    @property
    def is_on(self) -> bool:
        """A switch as argparse reads one: alone it is on. Raises BadValue."""
        value = self.values[0].lower() if self.values else "true"
        if value not in TRUE | FALSE:
            raise BadValue(f"--{self.said} takes true or false, not {self.value!r}")
        return value in TRUE


Translation = tuple[Flag | None, str]  # the flag of today, None where nothing is left to say; and the note


@dataclass(frozen=True)
class Renamed:
    """The same values under another name."""

    new: str

    def translate(self, old: Flag) -> Translation:
        return replace(old, name=self.new), f"--{old.said} is now --{self.new}"


@dataclass(frozen=True)
class Share:
    """A share of the run, from 0 to 1, that is now a value below 1 of a flag that counts steps."""

    new: str

    def translate(self, old: Flag) -> Translation:
        try:
            share = float(old.value)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise BadValue(f"--{old.said} takes a share from 0 to 1, not {old.value!r}")
        value = ALL_STEPS if share == 1 else old.value
        return replace(old, name=self.new, values=(value,)), f"--{old.said} is now --{self.new} {value}"


@dataclass(frozen=True)
class Switch:
    """A switch that is now one value of another flag; switched off, it has nothing to say."""

    new: str
    value: str

    def translate(self, old: Flag) -> Translation:
        if not old.is_on:
            return None, f"--{old.said} is left out: off is the default, and on is now --{self.new} {self.value}"
        new = replace(old, name=self.new, values=(self.value,))
        return new, f"--{old.said} is now --{self.new} {self.value}"


@dataclass(frozen=True)
class Entry:
    """A flag that is now an entry of another one's JSON, with what that entry needs beside it."""

    new: str
    key: str
    switch: bool = False
    beside: dict[str, str] = field(default_factory=dict)

    def translate(self, old: Flag) -> Translation:
        if not self.switch and not old.value:
            raise BadValue(f"--{old.said} needs a value")
        value = old.is_on if self.switch else int(old.value) if old.value.isdecimal() else old.value
        entry = json.dumps({self.key: value, **self.beside})
        return replace(old, name=self.new, values=(entry,)), f"--{old.said} is now --{self.new} '{entry}'"


@dataclass(frozen=True)
class Gone:
    """Nothing takes its place: left out, but refused with a value that is not in ``harmless`` (None: any is)."""

    why: str
    harmless: frozenset[str] | None = None

    def translate(self, old: Flag) -> Translation:
        value = old.value.lower() if old.values else "true"
        if self.harmless is not None and value not in self.harmless:
            raise BadValue(f"--{' '.join([old.said, *old.values])} cannot be done: {self.why}")
        return None, f"--{old.said} is left out: {self.why}"


OldFlag = Renamed | Share | Switch | Entry | Gone

ONE_BACKEND = "mixed precision has one backend now, torch.autocast"
SAFETENSORS = "weights are saved as safetensors, never as pickle"
LOGS = "TensorBoard writes where the environment variable TENSORBOARD_LOGGING_DIR says, else to runs/ in --output_dir"
OWNER = "push_to_hub_organization"
REPOSITORY = "push_to_hub_model_id"

OLD_FLAGS: dict[str, OldFlag] = {
    "evaluation_strategy": Renamed("eval_strategy"),
    "no_cuda": Renamed("use_cpu"),
    "per_gpu_train_batch_size": Renamed("per_device_train_batch_size"),
    "per_gpu_eval_batch_size": Renamed("per_device_eval_batch_size"),
    "push_to_hub_token": Renamed("hub_token"),
    REPOSITORY: Renamed("hub_model_id"),
    OWNER: Renamed("hub_model_id"),
    "torchdynamo": Renamed("torch_compile_backend"),
    "xpu_backend": Renamed("ddp_backend"),
    "warmup_ratio": Share("warmup_steps"),
    "group_by_length": Switch("train_sampling_strategy", "group_by_length"),
    "adafactor": Switch("optim", "adafactor"),
    "include_inputs_for_metrics": Switch("include_for_metrics", "inputs"),
    "tpu_metrics_debug": Switch("debug", "tpu_metrics_debug"),
    "dispatch_batches": Entry("accelerator_config", "dispatch_batches", switch=True),
    "split_batches": Entry("accelerator_config", "split_batches", switch=True),
    "fsdp_transformer_layer_cls_to_wrap": Entry("fsdp_config", "transformer_layer_cls_to_wrap"),
    "fsdp_min_num_params": Entry("fsdp_config", "min_num_params", beside={"auto_wrap_policy": "SIZE_BASED_WRAP"}),
    "fp16_backend": Gone(ONE_BACKEND),
    "half_precision_backend": Gone(ONE_BACKEND),
    "fp16_opt_level": Gone(f"it was a setting of Apex, and {ONE_BACKEND}"),
    "save_safetensors": Gone(SAFETENSORS, frozenset(TRUE)),
    "no_save_safetensors": Gone(SAFETENSORS, frozenset(FALSE)),
    "logging_dir": Gone(LOGS),
    "use_mps_device": Gone("an Apple GPU is used where there is one"),
    "use_ipex": Gone("there is no longer a setting for the Intel extension"),
    "jit_mode_eval": Gone("evaluation is no longer traced; --torch_compile is what makes it faster"),
    "include_tokens_per_second": Gone("tokens per second are always measured"),
    "use_legacy_prediction_loop": Gone("there is one evaluation loop now"),
    "mp_parameters": Gone("only a launcher read it"),
    "tpu_num_cores": Gone("only a launcher read it"),
    "ray_scope": Gone("it concerned a hyperparameter search, and this command runs none"),
    "past_index": Gone("no model keeps its past from batch to batch any more", frozenset({"-1"})),
    "sharded_ddp": Gone("fairscale's sharding gave way to --fsdp and --deepspeed", frozenset({""} | FALSE)),
}

# Flags that stayed, with values that did not; "" is a flag that needed none.
OLD_VALUES = {
    "optim": {"adamw_hf": "adamw_torch", "adamw_apex_fused": "adamw_torch_fused"},
    "hub_private_repo": {"": "true"},
}


def with_new_value(flag: Flag) -> Translation:
    """A flag that stayed, with what became of its value."""
    now = OLD_VALUES.get(flag.name, {}).get(flag.value)
    if now is None:
        return flag, ""
    note = f"--{' '.join([flag.name, *flag.values[:1]])} is now --{flag.name} {now}"
    return replace(flag, values=(now, *flag.values[1:])), note


def with_organization(flags: Sequence[Flag]) -> list[Flag]:
    """In 2023 the owner of a hub repository was a flag, and its name another, or the output folder's."""
    last = {flag.name: flag for flag in flags if flag.value}
    if OWNER not in last:
        return list(flags)
    owner = last[OWNER]
    name = last[REPOSITORY].value if REPOSITORY in last else ""
    name = name or (Path(last["output_dir"].value).name if "output_dir" in last else "")
    if not name:
        raise BadValue(f"--{owner.said} needs a repository's name: give --hub_model_id {owner.value}/NAME in its place")
    others = [flag for flag in flags if flag.name not in (OWNER, REPOSITORY)]
    return [*others, replace(owner, values=(f"{owner.value}/{name}", *owner.values[1:]))]
