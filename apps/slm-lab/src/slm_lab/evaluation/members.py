"""Which models an evaluation consists of, and which of them share a base."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slm_adapters import BaseLocation, ModelFolder, common_base, find_base, read_model_folder


@dataclass(frozen=True)
class Member:
    """A model to evaluate.

    Attributes:
        name: Its name in tables.
        path: A folder, a GGUF file or the name of a base.
        folder: The folder that eval.json is written to; None for a base, whose results its runs' files hold.
        identity: A digest of the weights, by which results are recognised.
    """

    name: str
    path: str
    folder: Path | None
    identity: str


@dataclass
class Group:
    """Models that are loaded together.

    Attributes:
        base: Their base.
        model: The base itself, or a whole model, if it is evaluated.
        adapters: Adapters on the base.
        base_folders: Folders of the runs whose base it is.
    """

    base: BaseLocation
    model: Member | None = None
    adapters: list[Member] = field(default_factory=list)
    base_folders: list[Path] = field(default_factory=list)

    @property
    def members(self) -> list[Member]:
        """All models, the base first."""
        return [*([self.model] if self.model else []), *self.adapters]


def plan_groups(runs: Sequence[str], *, with_bases: bool, output_dir: Path) -> list[Group]:
    """Group ``runs`` by their bases: run folders, model folders, adapter folders and names of bases.

    Args:
        runs: What to evaluate; repeated ones count once.
        with_bases: Whether the bases of adapters, and of runs that trained all weights, are evaluated too.
        output_dir: Where results of a base that is given by name are written.

    Raises:
        AdapterError: A folder is missing or damaged.
    """
    groups: dict[tuple[str, str | None], Group] = {}
    names = short_names(runs)
    for run in dict.fromkeys(runs):
        path = Path(run).expanduser()
        folder = read_model_folder(path) if path.is_dir() else None
        base = common_base(path, [folder]) if folder and folder.holds_adapter else find_base(run)
        group = groups.setdefault((base.name, base.revision), Group(base))
        if folder and folder.holds_adapter:
            group.adapters.append(Member(names[run], run, path, _adapter_identity(folder, base)))
            if with_bases:
                _add_base(group, path)
            continue
        results = path if folder else output_dir / run.replace("/", "--")
        group.model = Member(names[run], run, results, base_identity(base))
        if with_bases and folder and (trained := recorded_base(folder)):
            _add_base(groups.setdefault((trained.name, trained.revision), Group(trained)), path)
    return list(groups.values())


def recorded_base(folder: ModelFolder) -> BaseLocation | None:
    """The base that a run trained all weights of; None for a model that was trained from scratch, or no run."""
    name = folder.run.get("base")
    return find_base(name) if isinstance(name, str) and name else None


def _add_base(group: Group, run: Path) -> None:
    group.base_folders.append(run)
    if group.model is None:
        name = f"base {Path(group.base.name).name}" if group.base.folder else f"base {group.base.name}"
        group.model = Member(name, group.base.name, None, base_identity(group.base))


def short_names(runs: Sequence[str]) -> dict[str, str]:
    """The last part of each path; the whole path where several have the same last part."""
    last = {run: Path(run).name or run for run in runs}
    return {run: name if [*last.values()].count(name) == 1 else run for run, name in last.items()}


def base_identity(base: BaseLocation) -> str:
    """A digest of a base's weights, or its name on the hub."""
    if base.folder is None:
        return f"{base.name}@{base.revision or 'main'}"
    return _digest(base.folder.weights)


def _adapter_identity(folder: ModelFolder, base: BaseLocation) -> str:
    return f"{_digest([*folder.weights, folder.path / 'adapter_config.json'])} on {base_identity(base)}"


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for block in _blocks(files):
        digest.update(block)
    return digest.hexdigest()


def _blocks(files: Sequence[Path]) -> Iterator[bytes]:
    for file in files:
        with file.open("rb") as opened:
            while block := opened.read(1 << 22):
                yield block
