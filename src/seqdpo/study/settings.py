"""The settings by name: which objectives they hold and how those relate."""

from typing import Any, NamedTuple

from seqdpo.study.objectives import (
    HelpSteer2Objective,
    HhRlhfObjective,
    LabObjective,
    Objective,
    PkuSafeRlhfObjective,
    UltraFeedbackObjective,
)


class Setting(NamedTuple):
    """A named set of objectives."""

    relation: str
    objectives: dict[str, Objective]
    defaults: dict[str, Any]  # what `seqdpo init` writes in place of a key's own default


#: The reference configuration of the study that seqdpo grew out of (arXiv 2606.19744).
LLAMA = {"model_name_or_path": "meta-llama/Llama-3.1-8B-Instruct", "dtype": "bfloat16"}
#: What suits the lab's model of a million parameters.
LAB = {
    "model_name_or_path": "lab",
    "lora_r": 16,
    "lora_alpha": 32,
    "learning_rate": 1e-3,
    "max_length": 128,
    "eval_fraction": 0.5,
    "max_eval_pairs": 1000,
    "mechanism_share": 1.0,  # its stages are short
}


def _lab(angle: float, **dials: Any) -> LabObjective:
    return LabObjective(format="lab", angle=angle, **dials)


SETTINGS: dict[str, Setting] = {
    "hh-rlhf": Setting(
        "distributional conflict: what helps and what is harmless, on different prompts",
        {
            "helpful": HhRlhfObjective(format="hh-rlhf", subset="helpful-base"),
            "harmless": HhRlhfObjective(format="hh-rlhf", subset="harmless-base"),
        },
        LLAMA,
    ),
    "helpsteer2": Setting(
        "multi-attribute interaction: two ratings of the same responses",
        {
            "helpfulness": HelpSteer2Objective(format="helpsteer2", attribute="helpfulness"),
            "verbosity": HelpSteer2Objective(format="helpsteer2", attribute="verbosity", prefer="lower"),
        },
        LLAMA,
    ),
    "pku-saferlhf": Setting(
        "strong safety signal: two labels of the same pairs, one of them safety",
        {
            "helpful": PkuSafeRlhfObjective(format="pku-saferlhf", label="helpful"),
            "safe": PkuSafeRlhfObjective(format="pku-saferlhf", label="safe", contrast_only=True),
        },
        LLAMA,
    ),
    "ultrafeedback": Setting(
        "compatible response quality: two aspects that mostly agree",
        {
            "helpfulness": UltraFeedbackObjective(format="ultrafeedback", aspect="helpfulness"),
            "honesty": UltraFeedbackObjective(format="ultrafeedback", aspect="honesty"),
        },
        LLAMA,
    ),
    "lab-conflict": Setting(
        "distributional conflict, as in HH-RLHF: opposed preferences on different prompts",
        {"helpful": _lab(0), "harmless": _lab(150)},
        LAB,
    ),
    "lab-interaction": Setting(
        "multi-attribute interaction, as in HelpSteer2: two attributes of the same responses",
        {"helpfulness": _lab(0, overlap=1), "verbosity": _lab(75, overlap=1)},
        LAB,
    ),
    "lab-strong-signal": Setting(
        "strong safety signal, as in PKU-SafeRLHF: a clear label beside a noisy, somewhat opposed one",
        {"helpful": _lab(0, noise=0.4, overlap=1), "safe": _lab(105, noise=0.05, overlap=1)},
        LAB,
    ),
    "lab-compatible": Setting(
        "compatible response quality, as in UltraFeedback: two aspects that mostly agree",
        {"helpfulness": _lab(0, overlap=0.5), "honesty": _lab(30, overlap=0.5)},
        LAB,
    ),
    "lab-null": Setting(
        "nothing real: the second objective's labels are coin flips about features that the first one does not judge",
        {
            "first": _lab(0, features=["warmth", "thoroughness", "caution"]),
            "second": _lab(90, noise=1000, features=["certainty", "evidence", "openness"]),
        },
        LAB,
    ),
}
