"""What an audit is of: a base, checkpoints that were trained elsewhere, and the objectives they are scored on."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from seqdpo.study.checkpoints import Checkpoint, Node, typed
from seqdpo.study.keys import DataKeys, Keys, ModelKeys, TextKeys, TreeKeys, VerdictKeys
from seqdpo.study.objectives import Name
from seqdpo.wording import did_you_mean, listed


class Source(Keys):
    """Where a checkpoint lies, and what it stands on."""

    path: Name = Field(description="folder or hub id of an adapter or a whole model")
    revision: str | None = Field(default=None, description="branch, tag or commit on the hub")
    on: Name | None = Field(
        default=None,
        description="what has to be loaded below an adapter: base, another checkpoint, merged, or the path of one; "
        "null: what its adapter_config.json says",
    )


def _source(value: Any) -> Any:
    """A path alone is a source; YAML reads a bare `on` as true."""
    if isinstance(value, dict):
        return {"on" if key is True else key: own for key, own in value.items()}
    return {"path": value} if isinstance(value, str) else value


def _checkpoint_name(name: str) -> str:
    name = typed(name)
    checkpoint = Checkpoint.parse(name)  # a ValueError says what is wrong
    if not checkpoint.path or checkpoint.placebo or checkpoint.variant:
        raise ValueError(f"{name!r} is no checkpoint of an audit; expected objectives in the order of training")
    return name


def _names(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Audit(VerdictKeys, DataKeys, TextKeys, ModelKeys):
    """Checkpoints of one base, in training order, and what they are scored on; nothing is trained."""

    checkpoints: dict[Annotated[str, AfterValidator(_checkpoint_name)], Annotated[Source, BeforeValidator(_source)]] = (
        Field(min_length=1, description="path or hub id of each checkpoint, as helpful and helpful>harmless")
    )
    trained_on: dict[str, Annotated[list[Name], BeforeValidator(_names)]] = Field(
        default_factory=dict, description="per objective, files that a checkpoint was trained on: kept apart"
    )
    without_pairs: list[Name] = Field(
        default_factory=list, description="what a checkpoint was trained on, and there are no pairs to score: [sft]"
    )
    beta: float = Field(default=0.1, gt=0, description="of the loss they were trained with; scales reward_margin alone")
    tokens_per_batch: int | None = Field(default=None, ge=16, description="as in a study")
    output_dir: Name = Field(default="runs/audit", description="the run folder")

    @model_validator(mode="after")
    def _check_quantised(self) -> Self:
        for key in ("load_in_4bit", "load_in_8bit"):
            if getattr(self, key):
                raise ValueError(
                    f"{key} = True: an audit scores on the base as it is, into which adapters may have to be merged; "
                    f"expected no {key}. Leave it out"
                )
        return self

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for name, source in self.checkpoints.items():
            path = Checkpoint.parse(name).path
            for objective in path:
                if objective not in self.without_pairs:
                    self._check_objective(objective, f"checkpoints: {name!r}")
            if len(set(path)) < len(path):
                raise ValueError(f"checkpoints: {name!r} trains an objective twice; expected each at most once")
            if source.on is not None and typed(source.on) == name:
                raise ValueError(f"checkpoints: {name!r} stands on itself; expected base or another checkpoint")
        for name in self.trained_on:
            self._check_objective(name, "trained_on")
        return self

    def _check_objective(self, name: str, where: str) -> None:
        if name not in self.objectives:
            near = did_you_mean(name, self.objectives)
            hint = f".{near}" if near else ""
            raise ValueError(f"{where}: {name!r} is no objective; expected {listed(self.objectives)}{hint}")

    def nodes(self) -> list[Node]:
        """The stages that left the checkpoints, parents first."""
        paths = sorted((Checkpoint.parse(name).path for name in self.checkpoints), key=len)
        return [Node(0, path) for path in paths]

    def tree(self) -> TreeKeys:
        """The checkpoints as a tree of stages: one seed, no control stages."""
        paths = [node.path for node in self.nodes()]
        ends = [path for path in paths if not any(other[:-1] == path for other in paths)]
        keys = {name: getattr(self, name) for name in DataKeys.model_fields}
        return _Tree(orders=[list(path) for path in ends], placebo=0, **keys)


class _Tree(TreeKeys):
    """Of an audit: it trains nothing, and may have stages without pairs."""

    @model_validator(mode="after")
    def _check_orders(self) -> Self:
        return self  # the audit's checkpoints were checked

    def trained_objectives(self) -> list[str]:
        return []
