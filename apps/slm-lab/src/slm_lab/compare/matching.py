"""``--match parameters``: settings with which all variants train about as many parameters as a reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from slm_lab.compare.command_lines import split_flags
from slm_lab.compare.preflight import explain_train_errors
from slm_lab.compare.settings import ComparisonSettings
from slm_lab.compare.trainable_counter import TrainableCounter
from slm_lab.errors import LabError
from slm_lab.modes import BUTTERFLY_MODES
from slm_lab.variants import OPTIONS, Variant

TOLERANCE = 0.25  # relative difference from the reference above which a match is reported as a poor one
# The option that is chosen for each name of a variant; for a butterfly the preset too, unless it is given.
CHOSEN_OPTION = {"lora": "r", "qlora": "r", "dora": "r", "oft": "block_size"} | dict.fromkeys(BUTTERFLY_MODES, "stages")
# Widths of layers are multiples of 64 or 96 in most models, so most of these divide them.
BLOCK_SIZES = sorted(factor * 2**power for factor in (1, 3) for power in range(10) if factor * 2**power > 1)
MAX_STAGES = 64


@dataclass(frozen=True)
class Match:
    """A variant with the chosen options, the parameters that it trains, and what is to be said about it."""

    variant: Variant
    parameters: int
    note: str = ""

    def distance(self, target: int) -> float:
        """Return the factor by which the parameters differ from ``target``."""
        return max(self.parameters / target, target / self.parameters)


def match_parameters(settings: ComparisonSettings, reference: Variant | None) -> list[Match]:
    """Choose rank, block size or stages of each variant that does not set them.

    Args:
        settings: The comparison, with the variants as they were given.
        reference: One of the variants; None for the first butterfly.

    Raises:
        LabError: Without a reference, and for a flag that sets what is to be chosen.
    """
    reference = _find_reference(settings.variants, reference)
    chosen = [variant for variant in settings.variants if _is_chosen(variant, reference)]
    _refuse_contradicting_flags(settings, chosen)
    with explain_train_errors():
        counter = TrainableCounter(settings)
        target = counter.require(reference)
        return [_match(variant, reference, target, counter) for variant in settings.variants]


def _find_reference(variants: Sequence[Variant], reference: Variant | None) -> Variant:
    if reference is None:
        reference = next((variant for variant in variants if variant.mode in BUTTERFLY_MODES), None)
        if reference is None:
            raise LabError("--match parameters needs a reference: add butterfly to --modes, or give --match_to")
    if reference not in variants or reference.name == "baseline":
        candidates = ",".join(variant.spelling for variant in variants if variant.name != "baseline")
        raise LabError(f"--match_to {reference.spelling} must be one of --modes, and an adapter: {candidates}")
    return reference


def _is_chosen(variant: Variant, reference: Variant) -> bool:
    option = CHOSEN_OPTION.get(variant.name)
    return option is not None and variant != reference and not variant.sets(option)


def _refuse_contradicting_flags(settings: ComparisonSettings, variants: Sequence[Variant]) -> None:
    passed_on = {name for name, _ in split_flags(settings.passed_on)}
    for variant in variants:
        option = CHOSEN_OPTION[variant.name]
        if (flag := OPTIONS[variant.name][option].flag) in passed_on:
            raise LabError(f"--{flag} sets what --match parameters chooses for {variant.label}; remove one of them")


def _match(variant: Variant, reference: Variant, target: int, counter: TrainableCounter) -> Match:
    if not _is_chosen(variant, reference):
        parameters = counter.require(variant)
        return Match(variant, parameters, _note_as_given(variant, reference, parameters / target - 1))
    matches = [_nearest(candidates, target, counter) for candidates in _candidates(variant, target, counter)]
    found = [match for match in matches if match]
    if not found:
        return Match(variant, counter.require(variant))  # raises the reason
    # The first candidates are nearest to what the user asked for.
    return next((match for match in found if not match.note), min(found, key=lambda match: match.distance(target)))


def _nearest(candidates: Iterable[Variant], target: int, counter: TrainableCounter) -> Match | None:
    counted = [(candidate, counter(candidate)) for candidate in candidates]
    matches = [Match(candidate, count, _note_chosen(count / target - 1)) for candidate, count in counted if count]
    return min(matches, key=lambda match: match.distance(target), default=None)


def _candidates(variant: Variant, target: int, counter: TrainableCounter) -> Iterator[Iterable[Variant]]:
    """Yield variants with values of the chosen option around the target; those of other presets after the default."""
    if variant.name == "oft":
        yield _up_to(target, counter, _with_values(variant, "block_size", BLOCK_SIZES))
    elif variant.mode in BUTTERFLY_MODES:
        is_preset_free = not (variant.sets("preset") or variant.sets("side"))
        for base in (variant, *([variant.with_options({"preset": "quality"})] if is_preset_free else [])):
            # Without the option, stages mix a block fully; no more are tried.
            fewer = _up_to(min(target, counter(base) or 0), counter, _with_values(base, "stages", range(1, MAX_STAGES)))
            yield [base, *fewer]
    else:
        yield _ranks(variant, target, counter)


def _ranks(variant: Variant, target: int, counter: TrainableCounter) -> Iterable[Variant]:
    """Return the two ranks around the target. The number of parameters grows by the same amount with each rank."""
    one, two = (counter(candidate) for candidate in _with_values(variant, "r", (1, 2)))
    if one is None or two is None:
        return []
    rank = max(1, 1 + (target - one) // (two - one))
    return _with_values(variant, "r", (rank, rank + 1))


def _with_values(variant: Variant, option: str, values: Iterable[int]) -> Iterator[Variant]:
    return (variant.with_options({option: str(value)}) for value in values)


def _up_to(target: int, counter: TrainableCounter, ascending: Iterable[Variant]) -> Iterator[Variant]:
    """Yield variants until one trains as many parameters as ``target``."""
    for variant in ascending:
        yield variant
        if (counter(variant) or 0) >= target:
            return


def _note_chosen(difference: float) -> str:
    if abs(difference) <= TOLERANCE:
        return ""
    return f"{abs(difference):.0%} {'more' if difference > 0 else 'fewer'} than the reference; nothing is nearer"


def _note_as_given(variant: Variant, reference: Variant, difference: float) -> str:
    if variant == reference:
        return "reference"
    if variant.name == "baseline":
        return "trains every weight"
    return f"as given; {abs(difference):.0%} {'more' if difference > 0 else 'fewer'} than the reference"


def with_matches(settings: ComparisonSettings, matches: Sequence[Match]) -> ComparisonSettings:
    """Return the settings with the chosen variants. Two that are the same count once."""
    return replace(settings, variants=tuple(dict.fromkeys(match.variant for match in matches)))
