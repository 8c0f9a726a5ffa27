"""The study file: one YAML, TRL's words. Unknown keys, wrong types and impossible combinations are refused."""

from typing import Self

from pydantic import Field, ValidationError, model_validator

from seqdpo.study.keys import DesignKeys, StageKeys, Variant
from seqdpo.study.objectives import Name


class Study(DesignKeys):
    """Everything that shapes a study's results, and where they go."""

    output_dir: Name = Field(description="the run folder")
    generate: int = Field(
        default=0, ge=0, description="held-out prompts an objective that every checkpoint answers at the end"
    )

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        rounded = next((f"{key} = True" for key in ("load_in_4bit", "load_in_8bit") if getattr(self, key)), None)
        if rounded is None and self.dtype != "float32":
            rounded = f"dtype = {self.dtype!r}"
        if self.adapter_mode == "new_on_merged" and rounded:
            # the rounding would be in the policy that trains, but not in the adapter that is saved and scored
            raise ValueError(
                f"adapter_mode = 'new_on_merged' with {rounded}: merging would round the earlier adapter; "
                "expected dtype 'float32', or adapter_mode 'stack', the same function without merging"
            )
        self._check_reference("", self.reference)
        for name, variant in self.variants.items():
            self._check_variant(name, variant)
        return self

    def _check_reference(self, where: str, reference: str) -> None:
        longest = max(len(order) for order in self.all_orders())
        if reference.startswith("stage:") and int(reference.removeprefix("stage:")) >= max(longest, 2):
            stages = "'stage:1'" if longest < 3 else f"'stage:1' to 'stage:{longest - 1}'"
            raise ValueError(
                f"{where}reference = {reference!r}, but no stage comes after it; expected 'base', 'previous' or "
                f"{stages}"
            )

    def _check_variant(self, name: str, variant: Variant) -> None:
        """Its keys, laid over the study's."""
        if max(len(order) for order in self.all_orders()) < 2:
            raise ValueError(f"variants: {name!r} is for later stages, and no order has one; expected a longer order")
        self._check_reference(f"variants.{name}.", variant.reference)
        if variant.remembers and self.adapter_name_or_path is not None:
            raise ValueError(
                f"variants: {name!r} reads training pairs of the objective that adapter_name_or_path learned, of which "
                "a study reads none; expected reference, interpolate or keys of a stage"
            )
        own = {one: getattr(variant, one) for one in variant.model_fields_set & StageKeys.model_fields.keys()}
        keys = {one: getattr(self, one) for one in StageKeys.model_fields} | own
        keys["reference"] = "base"  # looked at above
        try:
            StageKeys.model_validate(keys)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"variants.{name}: {message}") from None
