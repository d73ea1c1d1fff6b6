"""Training butterfly adapters in two processes, with DDP, FSDP1 and FSDP2: the same angles as in one process."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FullStateDictConfig,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    StateDictType,
    fully_shard,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from slm_adapters import AdapterError
from slm_testing.adapters.tiny_adapters import MakeModel, butterfly, layers, logits, random_butterfly
from slm_testing.adapters.two_processes import needs_two_processes, run_in_two_processes

pytestmark = needs_two_processes
STEPS, MICRO_BATCHES = 2, 2
TARGETS = ["q_proj", "k_proj", "down_proj"]
SETTINGS = {"both-scale": {"side": "both", "scale": True}, "blocks": {"side": "auto", "block_size": 16, "stages": 6}}


@pytest.fixture(autouse=True)
def _local_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


@pytest.fixture
def batches() -> Tensor:
    """Token ids ``[steps, micro-batches, rows, tokens]``."""
    return torch.randint(0, 48, (STEPS, MICRO_BATCHES, 4, 8), generator=torch.Generator().manual_seed(0))


def train(model: nn.Module, batches: Tensor) -> None:
    """Train with gradients that are summed over the micro-batches of a step, and averaged only in the last one."""
    trained = [values for values in model.parameters() if values.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=5.0)
    for micro_batches in batches:
        optimizer.zero_grad()
        for number, rows in enumerate(micro_batches, 1):
            is_ddp = isinstance(model, DistributedDataParallel)
            with model.no_sync() if is_ddp and number < len(micro_batches) else nullcontext():
                model(input_ids=rows, labels=rows, use_cache=False).loss.backward()
        optimizer.step()


def own_rows(rank: int, batches: Tensor) -> Tensor:
    return batches.chunk(2, dim=2)[rank]


def double(model: nn.Module, **settings: Any) -> PeftModel:
    """Return ``model`` in float64, in which two processes and one differ by rounding only."""
    adapted = butterfly(model.double(), target_modules=TARGETS, **settings).train()
    adapted.peft_config["default"].base_model_name_or_path = ""
    return adapted


def assert_same_angles(actual: dict[str, Tensor], adapted: PeftModel, atol: float = 1e-12) -> None:
    expected = get_peft_model_state_dict(adapted)
    assert actual.keys() == expected.keys() != set()
    assert max(float(values.abs().max()) for values in expected.values()) > 0.01
    for name, values in expected.items():
        torch.testing.assert_close(actual[name], values, rtol=0, atol=atol)


def train_ddp(rank: int, adapted: PeftModel, batches: Tensor, options: dict[str, Any]) -> dict[str, Tensor]:
    train(DistributedDataParallel(adapted, **options), own_rows(rank, batches))
    angles: dict[str, Tensor] = get_peft_model_state_dict(adapted)
    return angles


@pytest.mark.parametrize(
    ("settings", "find_unused_parameters"),
    [(SETTINGS["both-scale"], False), (SETTINGS["blocks"], False), (SETTINGS["blocks"], True)],
    ids=["both-scale", "blocks", "blocks-find-unused"],
)
def test_with_ddp_two_processes_train_the_same_angles_as_one(
    tiny: MakeModel, batches: Tensor, tmp_path: Path, settings: dict[str, Any], find_unused_parameters: bool
) -> None:
    options = {"find_unused_parameters": find_unused_parameters}
    results = run_in_two_processes(train_ddp, tmp_path, double(tiny("llama"), **settings), batches, options)
    alone = double(tiny("llama"), **settings)
    train(alone, batches)
    for angles in results:
        assert_same_angles(angles, alone)


def test_ddp_works_with_gradient_checkpointing(tiny: MakeModel, batches: Tensor, tmp_path: Path) -> None:
    adapted = double(tiny("llama"), side="both")
    adapted.gradient_checkpointing_enable({"use_reentrant": False})
    results = run_in_two_processes(train_ddp, tmp_path, adapted, batches, {"gradient_as_bucket_view": True})
    alone = double(tiny("llama"), side="both")
    train(alone, batches)
    for angles in results:
        assert_same_angles(angles, alone)


def train_fsdp1(rank: int, adapted: PeftModel, batches: Tensor, folder: Path) -> Tensor:
    blocks, cpu = ModuleWrapPolicy({LlamaDecoderLayer}), torch.device("cpu")
    model = FullyShardedDataParallel(adapted, auto_wrap_policy=blocks, device_id=cpu, use_orig_params=True)
    train(model, own_rows(rank, batches))
    whole = FullStateDictConfig(rank0_only=True)
    with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT, whole):
        state = model.state_dict()
    if rank == 0:
        adapted.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
    return logits(model.eval(), batches[0, 0, :1, :5])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # FSDP1's, about frozen parameters
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_with_fsdp1_two_processes_train_and_save_the_same_angles_as_one(
    tiny: MakeModel, batches: Tensor, tmp_path: Path, checkpointing: bool
) -> None:
    adapted = double(tiny("llama"), **SETTINGS["both-scale"])
    if checkpointing:
        adapted.gradient_checkpointing_enable({"use_reentrant": False})
    results = run_in_two_processes(train_fsdp1, tmp_path, adapted, batches, tmp_path / "saved")
    assert_same_as_alone(tiny, batches, tmp_path / "saved", SETTINGS["both-scale"], results)


def assert_same_as_alone(
    tiny: MakeModel, batches: Tensor, folder: Path, settings: dict[str, Any], results: list[Tensor]
) -> None:
    """Compare the saved adapter and the logits of both processes with training in one process."""
    alone = double(tiny("llama"), **settings)
    train(alone, batches)
    loaded = PeftModel.from_pretrained(tiny("llama").double(), folder)
    assert_same_angles(get_peft_model_state_dict(loaded), alone)
    expected = logits(alone.eval(), batches[0, 0, :1, :5])
    for actual in results:
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def shard(adapted: PeftModel, **options: Any) -> None:
    mesh = init_device_mesh("cpu", (2,))
    for block in adapted.base_model.model.model.layers:
        fully_shard(block, mesh=mesh, **options)
    fully_shard(adapted, mesh=mesh, **options)


def gathered(adapted: PeftModel) -> dict[str, Tensor]:
    """Return the whole state, on rank 0."""
    return get_model_state_dict(adapted, options=StateDictOptions(full_state_dict=True))


def train_fsdp(rank: int, adapted: PeftModel, batches: Tensor, options: dict[str, Any], folder: Path) -> Tensor:
    shard(adapted, **options)
    train(adapted, own_rows(rank, batches))
    state = gathered(adapted)
    if rank == 0:
        adapted.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
    return logits(adapted.eval(), batches[0, 0, :1, :5])  # few tokens: layers would cache their rotated weights


@pytest.mark.parametrize(
    ("settings", "options", "checkpointing"),
    [
        (SETTINGS["both-scale"], {}, False),
        (SETTINGS["blocks"], {"reshard_after_forward": False}, False),
        (SETTINGS["blocks"], {}, True),
    ],
    ids=["both-scale", "blocks-kept-whole", "blocks-checkpointing"],
)
def test_with_fsdp2_two_processes_train_and_save_the_same_angles_as_one(
    tiny: MakeModel,
    batches: Tensor,
    tmp_path: Path,
    settings: dict[str, Any],
    options: dict[str, Any],
    checkpointing: bool,
) -> None:
    adapted = double(tiny("llama"), **settings)
    if checkpointing:
        adapted.gradient_checkpointing_enable({"use_reentrant": False})
    results = run_in_two_processes(train_fsdp, tmp_path, adapted, batches, options, tmp_path / "saved")
    assert_same_as_alone(tiny, batches, tmp_path / "saved", settings, results)


@pytest.mark.parametrize(
    "policy", [MixedPrecisionPolicy(), MixedPrecisionPolicy(param_dtype=torch.bfloat16)], ids=["float32", "bfloat16"]
)
def test_over_a_bfloat16_base_fsdp2_trains_angles_in_float32(
    tiny: MakeModel, batches: Tensor, tmp_path: Path, policy: MixedPrecisionPolicy
) -> None:
    adapted, folder = butterfly(tiny("llama").bfloat16(), target_modules=TARGETS).train(), tmp_path / "saved"
    run_in_two_processes(train_fsdp, tmp_path, adapted, batches, {"mp_policy": policy}, folder)
    alone = butterfly(tiny("llama"), target_modules=TARGETS).train()
    train(alone, batches)
    saved = get_peft_model_state_dict(PeftModel.from_pretrained(tiny("llama"), folder))
    expected = get_peft_model_state_dict(alone)
    assert {values.dtype for values in load_file(folder / "adapter_model.safetensors").values()} == {torch.float32}
    flat, expected_flat = (torch.cat([angles[name].flatten() for name in expected]) for angles in (saved, expected))
    assert torch.nn.functional.cosine_similarity(flat, expected_flat, dim=0) > 0.99


def merge_layers_sharded_one_by_one(rank: int, adapted: PeftModel, input_ids: Tensor) -> tuple[Tensor, str]:
    mesh = init_device_mesh("cpu", (2,))
    for layer in layers(adapted).values():
        fully_shard(layer.get_base_layer(), mesh=mesh)
    fully_shard(adapted, mesh=mesh)
    actual = logits(adapted, input_ids)
    with pytest.raises(AdapterError) as refusal:
        adapted.merge_adapter()
    return actual, str(refusal.value)


def test_layers_sharded_one_by_one_evaluate_and_are_not_merged(
    tiny: MakeModel, input_ids: Tensor, tmp_path: Path
) -> None:
    adapted = random_butterfly(tiny("llama"), target_modules=TARGETS)
    few = input_ids[:1, :5]  # for which layers that are whole cache their rotated weight
    expected = logits(random_butterfly(tiny("llama"), target_modules=TARGETS), few)
    for actual, refusal in run_in_two_processes(merge_layers_sharded_one_by_one, tmp_path, adapted, few):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
        assert refusal.startswith("model.layers.0.self_attn.q_proj is distributed over processes (FSDP2) and cannot be")
