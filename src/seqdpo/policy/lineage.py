"""Which checkpoint stands on which: as the audit says, or found in what PEFT and TRL write beside the weights."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from seqdpo.errors import ConfigError, SeqdpoError
from seqdpo.policy.foreign import CONFIG_FILE, Adapter, Standing, downloaded, fetched, is_adapter, read_adapter
from seqdpo.policy.load import load_config
from seqdpo.study.audit import Audit, Source
from seqdpo.study.checkpoints import BASE, Node, checkpoint_of, typed
from seqdpo.study.keys import ModelKeys
from seqdpo.wording import did_you_mean, listed

#: Where TRL's DPOTrainer leaves the adapter that a stage was compared with, which is the one that it started from.
REFERENCE_FOLDER = "ref"
#: Of a configuration; two models that differ in one of them cannot have the same adapters.
_SHAPE = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_QUANTISED = re.compile(r"(?<![a-z])([48]bit|gptq|awq|int[48]|nf4)(?![a-z])", re.IGNORECASE)
_TENSORS_COMPARED = 3
#: bfloat16 rounds to 8 bits: a model saved in it is the same model.
_ROUNDING = 2**-7


@dataclass(slots=True)
class Member:
    """A checkpoint of an audit, found."""

    node: Node
    source: Source
    folder: Path
    adapter: Adapter | None  # None: a whole model
    standing: Standing = field(default_factory=Standing)
    on: str = BASE  # what it stands on, in words
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.node.checkpoint


def with_references(audit: Audit) -> Audit:
    """The audit with parents that were not given, but that TRL left in their child's `ref/` folder.

    Raises: ConfigError for a checkpoint whose parent is neither given nor found.
    """
    found = dict(audit.checkpoints)
    for node in reversed(audit.nodes()):
        parent = checkpoint_of(node.parent)
        if parent == BASE or parent in found:
            continue
        reference = fetched(node.checkpoint, found[node.checkpoint]) / REFERENCE_FOLDER
        if not (reference / CONFIG_FILE).is_file():
            raise ConfigError(
                f"checkpoints: {node.checkpoint!r} is there, but not {parent!r} before it; expected every checkpoint "
                f"on the way. Add it: --checkpoint '{parent}=PATH'"
            )
        found[parent] = Source(path=str(reference))
    return audit.model_copy(update={"checkpoints": found})


def lineage(audit: Audit) -> list[Member]:
    """Every checkpoint with what it stands on, parents first.

    Raises: ConfigError for whatever cannot be loaded, or stands on what is not known.
    """
    return _Lineage(audit).members()


@dataclass
class _Lineage:
    audit: Audit
    found: dict[str, Member] = field(default_factory=dict)

    def members(self) -> list[Member]:
        for node in self.audit.nodes():
            source = self.audit.checkpoints[node.checkpoint]
            folder = fetched(node.checkpoint, source)
            adapter = read_adapter(folder) if is_adapter(folder) else None
            self.found[node.checkpoint] = Member(node, source, folder, adapter)
        for member in self.found.values():
            self._place(member, ())
        for member in self.found.values():
            member.notes += _notes(member, self.found)
        return list(self.found.values())

    @cached_property
    def base(self) -> "_Model":
        return _Model.of(self.audit)

    def _place(self, member: Member, waiting: tuple[str, ...]) -> Standing:
        """What has to be loaded for a checkpoint; those that it stands on first."""
        if member.standing != Standing():
            return member.standing
        if member.name in waiting:
            raise ConfigError(f"checkpoints: {listed(waiting)} stand on each other; expected one on the base. Set on:.")
        waiting = (*waiting, member.name)
        if member.adapter is None:
            if member.source.on is not None:
                raise ConfigError(
                    f"checkpoints.{member.name}: on = {member.source.on!r}, but {member.folder} is a whole model, "
                    "which stands on nothing. Remove on."
                )
            _check_architecture(member.folder, self.base)
            member.standing, member.on = Standing(model=member.folder), "nothing: a whole model"
            return member.standing
        below = self._named(member, waiting) if member.source.on else self._from_config(member, waiting)
        member.standing = Standing(below.model, below.merged, member.folder)
        return member.standing

    def _named(self, member: Member, waiting: tuple[str, ...]) -> Standing:
        on = str(member.source.on)
        if on == BASE:
            return Standing()
        if typed(on) in self.found:
            return self._on_checkpoint(member, self.found[typed(on)], waiting)
        if not Path(on).is_dir():
            raise ConfigError(
                f"checkpoints.{member.name}: on = {on!r}: no such checkpoint or folder; expected 'base', "
                f"{listed(self.found)} or a folder.{did_you_mean(typed(on), self.found)} Correct it."
            )
        return self._on_folder(member, Path(on), waiting)

    def _on_checkpoint(self, member: Member, other: Member, waiting: tuple[str, ...]) -> Standing:
        member.on = f"{other.name}, merged" if other.adapter else f"{other.name}, a whole model"
        return self._place(other, waiting).below

    def _on_folder(self, member: Member, folder: Path, waiting: tuple[str, ...]) -> Standing:
        if str(folder) in waiting:
            raise ConfigError(
                f"checkpoints.{member.name}: {folder} names itself as its base, by way of {listed(waiting)}; expected "
                "a model below it. Say what it stands on (on:)."
            )
        if not is_adapter(folder):
            _check_architecture(folder, self.base)
            member.on = f"the model in {folder}"
            return Standing(model=folder)
        member.on = f"the adapter in {folder}, merged"
        below = self._below_of(member, read_adapter(folder), (*waiting, str(folder))).below
        return Standing(below.model, (*below.merged, folder))

    def _from_config(self, member: Member, waiting: tuple[str, ...]) -> Standing:
        assert member.adapter is not None
        return self._below_of(member, member.adapter, waiting)

    def _below_of(self, member: Member, adapter: Adapter, waiting: tuple[str, ...]) -> Standing:
        """What an adapter's own configuration names as its base."""
        named = str(adapter.config.get("base_model_name_or_path") or "")
        if _same_place(named, self.audit.model_name_or_path) or not named:
            return Standing()
        for other in self.found.values():
            if other is not member and (_same_place(named, other.source.path) or _same_place(named, str(other.folder))):
                return self._on_checkpoint(member, other, waiting)
        if Path(named).is_dir():
            return self._on_local(member, Path(named), waiting)
        return self._on_unseen(member, named)

    def _on_local(self, member: Member, folder: Path, waiting: tuple[str, ...]) -> Standing:
        if not is_adapter(folder):
            if self.base.is_same(folder):
                member.notes.append(f"names {folder} as its base: the same weights as this audit's base")
                return Standing()
            if member.node.parent is None:
                raise ConfigError(
                    f"checkpoints.{member.name}: was trained on {str(folder)!r}, which has "
                    f"{self.base.difference(folder)} than {self.audit.model_name_or_path!r}; expected the same base. "
                    f"Set model_name_or_path to it, or say on: {folder} if that is meant."
                )
        below = self._on_folder(member, folder, waiting)
        member.notes.append(f"stands on {folder}, as {CONFIG_FILE} says: it is loaded below it")
        return below

    def _on_unseen(self, member: Member, named: str) -> Standing:
        """A base that is not here: a place that is lost, or another hub id."""
        config = _config_of(named, self.audit)
        if config is not None and self.base.shape != _shape(config):
            raise ConfigError(
                f"checkpoints.{member.name}: was trained on {named!r}, whose configuration is another one "
                f"({_differing(_shape(config), self.base.shape)}); expected adapters of "
                f"{self.audit.model_name_or_path!r}. Set model_name_or_path to its base."
            )
        parent = self.found.get(checkpoint_of(member.node.parent))
        earlier = parent.adapter.config.get("base_model_name_or_path") if parent and parent.adapter else named
        if config is None and parent is not None and earlier != named:
            raise ConfigError(
                f"checkpoints.{member.name}: was trained on {named!r}, which is not here, and {parent.name!r} on "
                f"{str(earlier)!r}; expected to know whether {parent.name!r} was merged into it. Say so in the YAML: "
                f"{{path: {member.source.path}, on: {parent.name}}}, or on: base."
            )
        same = ", whose configuration is the same" if config is not None else ", which is not here"
        member.notes.append(f"names {named!r} as its base{same}: taken for this audit's base, weights not compared")
        return Standing()


@dataclass
class _Model:
    """The base of an audit, before its weights are loaded."""

    keys: ModelKeys
    shape: dict[str, Any]

    @classmethod
    def of(cls, keys: ModelKeys) -> "_Model":
        return cls(keys, _shape(load_config(keys)))

    @cached_property
    def folder(self) -> Path:
        """Of its weights; from the hub they are needed anyway."""
        folder = Path(self.keys.model_name_or_path)
        return folder if folder.is_dir() else downloaded(self.keys.model_name_or_path, self.keys.model_revision)

    def is_same(self, other: Path) -> bool:
        return not self.difference(other)

    def difference(self, other: Path) -> str:
        """What is another one there: the configuration or, of a few tensors, the weights; '' for the same model."""
        there = _shape(load_config(_local(other)))
        if there != self.shape:
            return f"another configuration ({_differing(there, self.shape)})"
        ours, theirs = _files_of(self.folder), _files_of(other)
        names = sorted(ours.keys() & theirs.keys())
        step = max(1, (len(names) - 1) // (_TENSORS_COMPARED - 1))
        differing = [name for name in names[::step] if not _close(_tensor(ours, name), _tensor(theirs, name))]
        return f"other weights ({differing[0]})" if differing else ""


def _local(folder: Path) -> ModelKeys:
    return ModelKeys(model_name_or_path=str(folder))


def _shape(config: Any) -> dict[str, Any]:
    text = config.get_text_config()
    return {name: getattr(text, name, None) for name in _SHAPE}


def _differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {there[name]} there, {here[name]} here" for name in _SHAPE if there[name] != here[name])


def _config_of(name: str, audit: Audit) -> Any:
    """The configuration of a model on the hub or in its cache; None if there is none."""
    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        return None
    try:
        return load_config(ModelKeys(model_name_or_path=name))
    except SeqdpoError:
        return None


def _check_architecture(folder: Path, base: _Model) -> None:
    there = _shape(load_config(_local(folder)))
    if there != base.shape:
        raise ConfigError(
            f"{folder}: a model of another architecture than {base.keys.model_name_or_path!r} "
            f"({_differing(there, base.shape)}); expected the same. Audit it with its own base."
        )


def _same_place(named: str, path: str) -> bool:
    return named == path or (Path(named).exists() and Path(path).exists() and Path(named).samefile(path))


def _files_of(folder: Path) -> dict[str, Path]:
    """The file of every tensor."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def _tensor(files: Mapping[str, Path], name: str) -> Tensor:
    with safe_open(files[name], framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor.float()


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=_ROUNDING, atol=1e-8)


def _notes(member: Member, found: Mapping[str, Member]) -> Iterator[str]:
    """What the folder says besides."""
    adapter = member.adapter
    if adapter is None:
        return
    named = str(adapter.config.get("base_model_name_or_path") or "")
    if _is_quantised(named, adapter):
        yield f"was trained on a quantised base ({named}): scored on this audit's, whose numbers differ somewhat"
    reference = member.folder / REFERENCE_FOLDER
    if (reference / CONFIG_FILE).is_file():
        parent = found.get(checkpoint_of(member.node.parent))
        same = parent is not None and _same_weights(reference, parent.folder)
        whose = f"the weights of {parent.name!r}" if same and parent else "other weights than any checkpoint here"
        yield f"ref/ holds what TRL compared it with, {whose}: its loss was against the previous policy, not the base"


def _is_quantised(named: str, adapter: Adapter) -> bool:
    if _QUANTISED.search(named) or adapter.config.get("use_qalora") or adapter.config.get("loftq_config"):
        return True
    try:
        config = json.loads((Path(named) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(isinstance(config, dict) and config.get("quantization_config"))


def tokenizer_notes(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """How the tokenizer that a trainer saved beside the weights differs from the one that texts are read with here.

    Nothing of it is run: the chat template is compared as text, the tokens by their table.
    """
    template = _chat_template(folder)
    if template is not None and template != tokenizer.chat_template:
        yield (
            "its chat template is another one than the base's: its texts looked otherwise in training. To score it as "
            f"it was trained: chat_template_path: {folder}"
        )
    file = folder / "tokenizer.json"
    if not file.is_file():
        return
    try:
        vocabulary = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
    except Exception:  # the tokenizers library raises nothing finer
        yield f"{file.name} cannot be read: whether its tokens are the base's is not known"
        return
    ours = tokenizer.get_vocab()
    differing = {token for token, _ in vocabulary.items() ^ ours.items()}
    if differing:
        some = ", ".join(sorted(map(repr, differing))[:_TENSORS_COMPARED])
        yield f"its tokenizer has other tokens than the base's: {len(differing)} of {len(ours)}, as {some}"


def _chat_template(folder: Path) -> str | None:
    try:
        if (folder / "chat_template.jinja").is_file():
            return (folder / "chat_template.jinja").read_text(encoding="utf-8")
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        template = config.get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    return template if isinstance(template, str) else None


def _same_weights(one: Path, other: Path) -> bool:
    if not all((folder / CONFIG_FILE).is_file() for folder in (one, other)):
        return False
    ours, theirs = _files_of(one), _files_of(other)
    return ours.keys() == theirs.keys() and all(
        torch.equal(_tensor(ours, name), _tensor(theirs, name)) for name in ours
    )
