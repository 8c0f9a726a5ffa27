"""The study file: one YAML, TRL's words. Unknown keys, wrong types and impossible combinations are refused."""

from typing import Self

from pydantic import Field, model_validator

from seqdpo.study.keys import DesignKeys
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
        longest = max(len(order) for order in self.all_orders())
        if self.reference.startswith("stage:") and self.reference_stage() >= max(longest, 2):
            stages = "'stage:1'" if longest < 3 else f"'stage:1' to 'stage:{longest - 1}'"
            raise ValueError(
                f"reference = {self.reference!r}, but no stage comes after it; expected 'base', 'previous' or {stages}"
            )
        return self
