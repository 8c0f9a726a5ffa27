"""How the checkpoints of an audit are loaded elsewhere: lines for PEFT, and a command for vLLM."""

import shlex
from collections.abc import Sequence

from seqdpo.policy.by_vllm import can_serve, max_lora_rank
from seqdpo.policy.lineage import Member
from seqdpo.study.keys import ModelKeys


def python_lines(member: Member, keys: ModelKeys) -> list[str]:
    """Lines of Python that make `policy`, the checkpoint's model."""
    standing = member.standing
    root = str(standing.model or keys.model_name_or_path)
    revision = "" if standing.model or keys.model_revision is None else f", revision={keys.model_revision!r}"
    name = "base" if standing.adapter else "policy"
    lines = [f"{name} = AutoModelForCausalLM.from_pretrained({root!r}, dtype={f'torch.{keys.dtype}'}{revision})"]
    lines += [f"base = PeftModel.from_pretrained(base, {str(path)!r}).merge_and_unload()" for path in standing.merged]
    if standing.adapter:
        lines.append(f"policy = PeftModel.from_pretrained(base, {str(standing.adapter)!r})")
    return lines


def vllm_command(members: Sequence[Member], keys: ModelKeys) -> str | None:
    """Serves all checkpoints that are plain LoRA on the base itself; None where there are none."""
    of = [
        (member, member.adapter) for member in members if member.adapter and can_serve(member.standing, member.adapter)
    ]
    if not of:
        return None
    rank = max_lora_rank([adapter for _, adapter in of])
    modules = " ".join(shlex.quote(f"{member.name}={member.folder}") for member, _ in of)
    revision = "" if keys.model_revision is None else f" --revision {shlex.quote(keys.model_revision)}"
    model = shlex.quote(keys.model_name_or_path)
    return f"vllm serve {model}{revision} --enable-lora --max-lora-rank {rank} --lora-modules {modules}"
