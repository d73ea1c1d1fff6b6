"""Building the program that computes a described model.

Shapes: R rows, D width of the residual stream, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slm_kv.compiled.block_weights import BlockWeight
from slm_kv.compiled.operations.activation import activate
from slm_kv.compiled.operations.attention import attend, attention_sums
from slm_kv.compiled.operations.elementwise import add, scale, softcap
from slm_kv.compiled.operations.normalisation import normalise
from slm_kv.compiled.operations.rotary import Pages, rotate_and_store
from slm_kv.compiled.products import QUANTISED, product, remainder
from slm_kv.compiled.program import Buffer, Instruction, Program, Workspace, barrier
from slm_kv.compiled.quantised.inputs import quantised_width
from slm_kv.decode_step.adapted_products import AdaptedProducts, Outputs
from slm_kv.decode_step.adapter import Adapter
from slm_kv.decode_step.blocks import Attention, Block, FeedForward, Linear, ModelDescription, Norm, Rotary
from slm_kv.decode_step.rotary_cache import RotaryCache
from slm_kv.pages.storage import PagedStorage

Instructions = list[Instruction]
CORRECTIONS = 2  # each adds 7 bits to the 8 of rounded inputs; float32 has 24


class StepBuilder:
    """Builds one program; layers share their buffers.

    Args:
        model: What to compute.
        storage: The pages.
        positions: The number of positions that a text can have.
        threads: The most threads the program may run on.
        exact: Multiply quantised weights by inputs that are not rounded to 8 bits, for comparisons.
    """

    def __init__(
        self, model: ModelDescription, storage: PagedStorage, positions: int, threads: int, exact: bool = False
    ) -> None:
        self._exact = exact
        self._model, self._storage, self._positions, self._threads = model, storage, positions, threads
        self.workspace = Workspace(threads=threads)
        self.x = self.workspace.rows(model.width)
        self.logits = self.workspace.rows(model.head.outputs)
        self.rotary: dict[tuple[int, str | None, bool], RotaryCache] = {}
        self._shared: dict[tuple[str, int], Buffer] = {}
        self._keep: list[object] = []
        self._adapted: AdaptedProducts | None = None

    def build(self, adapters: Sequence[Adapter] = ()) -> Program:
        """Return the program: from embeddings in ``x`` to ``logits``.

        Args:
            adapters: Those that rows may have, in the order of their numbers. Programs with and without them share
                their buffers.
        """
        self._keep = [self._model, self.workspace, self.rotary, self._storage]
        self._adapted = AdaptedProducts(adapters, self._rows, self._product) if adapters else None
        code: Instructions = []
        for index, block in enumerate(self._model.blocks):
            code += self._block(block, index)
        hidden, normalised = self._normalised(self.x, self._model.norm, "hidden")
        code += normalised + self._linears("head", [((self._model.head,), self.logits)], hidden)
        if self._model.logit_scale != 1:
            code.append(scale(self.logits, self._model.logit_scale))
        if self._model.logit_cap:
            code.append(softcap(self.logits, self._model.logit_cap))
        keep = [*self._keep, *(self._adapted.keep if self._adapted else ())]
        self._keep, self._adapted = [], None
        return Program(code, keep, self._threads)

    def _block(self, block: Block, index: int) -> Instructions:
        hidden, code = self._normalised(self.x, block.before_attention, "hidden")
        network: Instructions = []
        inner = self._rows("inner", block.feed_forward.width)
        if block.parallel:
            other, normalised = self._normalised(self.x, block.before_ff, "other") if block.before_ff else (hidden, [])
            network = normalised + self._activated(block.feed_forward, other, inner)
        code += self._attention(block.attention, hidden, index, network)
        attended = self._rows("attended", 0)
        code += self._added("attention output", block.attention.output, attended, block.after_attention, block)
        if not block.parallel:
            code.append(barrier())
            hidden, normalised = self._normalised(self.x, block.before_ff, "hidden")
            code += normalised + self._activated(block.feed_forward, hidden, inner) + [barrier()]
        code += self._added("network output", block.feed_forward.output, inner, block.after_ff, block)
        return [*code, barrier()]

    def _attention(self, attention: Attention, hidden: Buffer, index: int, beside: Instructions) -> Instructions:
        """Compute queries, keys and values, store them, attend; ``beside`` needs ``hidden`` only."""
        dim, heads, kv_heads, scores = attention.dim, attention.heads, attention.kv_heads, attention.scores
        qkv = self._rows("qkv", (heads + 2 * kv_heads) * dim)
        attended = self._shared["attended", 0] = self._rows("attended", heads * dim)
        pages = Pages.of(self._storage.keys[index], self._storage.values[index])
        code = self._linears("attention", [(attention.inputs, qkv)], hidden) + beside + [barrier()]
        query_norm, key_norm = attention.query_norm, attention.key_norm
        if attention.whole_norms:
            queries, keys = qkv.columns(0, heads * dim), qkv.columns(heads * dim, kv_heads * dim)
            code += self._in_place((queries, query_norm, "queries"), (keys, key_norm, "keys"))
            query_norm = key_norm = None
        rotary = None if attention.rotary is None else self._rotary_cache(attention.rotary).tables
        code.append(
            rotate_and_store(
                qkv,
                pages,
                heads=heads,
                rotary=rotary,
                query_norm=query_norm.weight if query_norm else None,
                key_norm=key_norm.weight if key_norm else None,
                eps=query_norm.eps if query_norm else 0.0,
                by_head=attention.by_head,
            )
        )
        sinks = None if scores.sinks is None else scores.sinks.detach().float().contiguous().numpy()
        self._keep.append(sinks)
        attention_code = attend(
            *(qkv, attended, pages),
            heads=heads,
            sums=self._attention_sums(heads, dim),
            scale=scores.scale,
            window=scores.window or 0,
            softcap=scores.softcap or 0.0,
            sinks=sinks,
            by_head=attention.by_head,
        )
        return [*code, barrier(), attention_code, barrier()]

    def _in_place(self, *parts: tuple[Buffer, Norm | None, str]) -> Instructions:
        """Normalise columns that other threads have written, and put the result into their place."""
        first: Instructions = []
        second: Instructions = []
        for columns, norm, name in parts:
            result, code = self._normalised(columns, norm, name)
            first += code
            second += [scale(columns, 0.0), add(columns, result)]
        return [*first, barrier(), *second, barrier()]

    def _activated(self, network: FeedForward, x: Buffer, out: Buffer) -> Instructions:
        width, gated = network.width, network.gated
        if gated and len(network.inputs) == 1:  # threads compute other columns of both halves
            both = self._rows("both", 2 * width)
            halves = both.columns(0, width), both.columns(width, width)
            code = self._linears("network", [(network.inputs, both)], x)
            return [*code, barrier(), activate(network.activation, *halves, out)]
        up = self._rows("up", width) if gated else None
        outputs = [((layer,), buffer) for layer, buffer in zip(network.inputs, (out, up), strict=False) if buffer]
        return [*self._linears("network", outputs, x), activate(network.activation, out, up, out)]

    def _added(self, name: str, layer: Linear, x: Buffer, norm: Norm | None, block: Block) -> Instructions:
        """Add ``layer(x)``, normalised, to the residual stream."""
        out = self._rows("output", layer.outputs)
        code = self._linears(name, [((layer,), out)], x)
        if norm is not None:
            out, normalised = self._normalised(out, norm, "normalised")
            code += [barrier(), *normalised]
        return [*code, add(self.x, out, block.residual_scale)]

    def _normalised(self, x: Buffer, norm: Norm | None, name: str) -> tuple[Buffer, Instructions]:
        """Each thread's own copy of all normalised columns; ``x`` itself without a norm."""
        if norm is None:
            return x, []
        key = (name, -x.width)
        out = self._shared[key] = self._shared.get(key) or self.workspace.private(x.width)
        return out, [normalise(x, out, weight=norm.weight, bias=norm.bias, eps=norm.eps, center=norm.center)]

    def _linears(self, name: str, outputs: Outputs, x: Buffer) -> Instructions:
        """Layers with the input ``x``, with the adapters of the rows; ``name`` is that of buffers for adapters."""
        if self._adapted:
            return self._adapted.instructions(name, outputs, x)
        return [instruction for layers, out in outputs for instruction in self._product(layers, x, out)]

    def _product(self, layers: Sequence[Linear], x: Buffer, out: Buffer) -> Instructions:
        """The layers' outputs side by side."""
        parts, column = [], 0
        for layer in layers:
            parts.append((layer.module.block_weight, column))
            column += layer.outputs
        scratch = self._scratch([weight for weight, _ in parts])
        code = product(parts, x, out, bias=self._bias(layers), scratch=scratch)
        return code if scratch is None or not self._exact else code + self._corrections(parts, x, out, scratch)

    def _corrections(
        self, parts: Sequence[tuple[BlockWeight, int]], x: Buffer, out: Buffer, scratch: Buffer
    ) -> Instructions:
        """Add the products with what rounding took from ``x``, and from the rest."""
        code: Instructions = []
        inputs = parts[0][0].inputs
        key = ("rest", -inputs)
        rest = self._shared[key] = self._shared.get(key) or self.workspace.private(inputs)
        part = self._rows("correction", out.width)
        for _ in range(CORRECTIONS):
            code += [remainder(x, scratch, rest, inputs), *product(parts, rest, part, scratch=scratch), barrier()]
            code += [add(out, part), barrier()]
            x = rest
        return code

    def _scratch(self, weights: Sequence[BlockWeight]) -> Buffer | None:
        """Memory for the inputs in 8 bits, if a weight needs it. A thread overwrites only its own."""
        if all(weight.format not in QUANTISED for weight in weights):
            return None
        width = quantised_width(weights[0].inputs)
        key = ("quantised", width)
        if key not in self._shared:
            self._shared[key] = self.workspace.private(width)
        return self._shared[key]

    def _bias(self, layers: Sequence[Linear]) -> np.ndarray | None:
        if all(layer.bias is None for layer in layers):
            return None
        biases = [np.zeros(layer.outputs, np.float32) if layer.bias is None else layer.bias for layer in layers]
        bias = np.concatenate(biases)
        self._keep.append(bias)
        return bias

    def _rows(self, name: str, width: int) -> Buffer:
        key = (name, width)
        if key not in self._shared:
            self._shared[key] = self.workspace.rows(width)
        return self._shared[key]

    def _attention_sums(self, heads: int, dim: int) -> Buffer:
        key = (f"sums of heads of {dim}", heads)
        if key not in self._shared:
            self._shared[key] = attention_sums(self.workspace, heads, dim)
        return self._shared[key]

    def _rotary_cache(self, rotary: Rotary) -> RotaryCache:
        key = (id(rotary.module), rotary.layer_type, rotary.interleaved)
        if key not in self.rotary:
            self.rotary[key] = RotaryCache(rotary, self._positions)
        return self.rotary[key]
