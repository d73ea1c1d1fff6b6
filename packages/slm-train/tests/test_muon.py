"""Muon and AdamW in one optimizer, compared with those of torch."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from slm_train.loop.muon import MuonWithAdamW, muon_groups, orthogonalized


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16), (3, 12, 20)])
def test_singular_values_become_close_to_one_and_singular_vectors_are_kept(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    update = torch.randn(shape)
    u, _, v = torch.linalg.svd(update, full_matrices=False)
    result = orthogonalized(update)
    inner = u.mT @ result @ v.mT
    values = inner.diagonal(dim1=-2, dim2=-1)
    assert values.min() > 0.5
    assert values.max() < 1.3
    assert (inner - torch.diag_embed(values)).abs().max() < 1e-3


def test_tables_norms_and_biases_go_to_adamw_and_the_matrices_of_the_blocks_to_muon() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=2, n_head=2))
    muon, adamw = muon_groups(model, model.get_input_embeddings())
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)].split(".")[-2] for p in muon["params"]} == {"c_attn", "c_proj", "c_fc"}
    assert len(muon["params"]) + len(adamw["params"]) == len(names)
    assert adamw["weight_decay"] == 0.0


def test_adamw_groups_are_updated_as_by_torchs_adamw() -> None:
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(5, 7))
    theirs = torch.nn.Parameter(ours.detach().clone())
    settings = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}
    steps = (
        MuonWithAdamW([{"params": [ours], "muon": False}], **settings),
        torch.optim.AdamW([theirs], **settings),
    )
    for _ in range(20):
        ours.grad = theirs.grad = torch.randn(5, 7)
        for optimizer in steps:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_muon_groups_are_updated_as_by_torchs_muon_up_to_its_bfloat16() -> None:
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(16, 48))
    theirs = torch.nn.Parameter(ours.detach().clone())
    first = ours.detach().clone()
    muon = MuonWithAdamW([{"params": [ours], "muon": True}], lr=1e-2, weight_decay=0.1)
    torch_muon = torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        ours.grad = theirs.grad = torch.randn(16, 48)
        muon.step()
        torch_muon.step()
    distance = (theirs - first).norm()
    assert (ours - theirs).norm() / distance < 0.02


def test_a_restored_state_continues_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 3))

    def build(net: torch.nn.Module) -> MuonWithAdamW:
        weights = [p for p in net.parameters() if p.ndim == 2]
        biases = [p for p in net.parameters() if p.ndim == 1]
        groups = [{"params": weights, "muon": True}, {"params": biases, "muon": False}]
        return MuonWithAdamW(groups, lr=1e-2, weight_decay=0.1)

    def step(net: torch.nn.Module, optimizer: MuonWithAdamW, seed: int) -> None:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    optimizer = build(model)
    for seed in range(3):
        step(model, optimizer, seed)
    other = copy.deepcopy(model)
    resumed = build(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(other, resumed, seed)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
