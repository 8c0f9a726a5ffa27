"""Rows as people bring them, token for token what TRL's own trainer makes of them."""

import json

import pytest

from seqdpo.preferences.datasets.preference import candidates
from seqdpo.preferences.tokens import Tokeniser
from seqdpo.study.objectives import PreferenceObjective

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'seqdpo[test]'")

#: Each reads something beside role and content; the first as Qwen 3 does it, the second as Llama 3.1.
THINKING = (
    "{{ bos_token }}{% if tools %}{{ '<system>' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '<end>' }}"
    "{% endif %}{% for m in messages %}{{ '<' + m['role'] + '>' }}"
    "{% if m['reasoning_content'] is string %}{{ '(' + m['reasoning_content'] + ')' }}{% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}{% endif %}"
    "{% for call in m['tool_calls'] or [] %}{{ call['function']['name'] + call['function']['arguments'] }}{% endfor %}"
    "{{ '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '()' }}{% endif %}{% endif %}"
)
TRIMMING = (
    "{{ bos_token }}{% for m in messages %}{{ '<' + m['role'] + '>' + (m['name'] or '') }}"
    "{{ (m['content'] or '') | trim }}{{ '<end>\n' }}{% endfor %}"
    "{% if tools is not none %}{{ tools | length }}{% endif %}"
    "{% if add_generation_prompt %}{{ '<assistant>\n\n' }}{% endif %}"
)


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


#: Keys in the order of the alphabet, into which PyArrow before 26 puts those that TRL reads.
TOOLS = [{"function": {"description": "the time", "name": "get_time"}, "type": "function"}]
CALL = {"function": {"name": "get_time", "arguments": "{}"}}
ASKED = {"prompt": [user("what time?")], "chosen": [assistant("seven")], "rejected": [assistant("no")]}
ROWS = {
    "reasoning": {
        "prompt": [user("q"), assistant("a", reasoning_content="earlier"), user("r", reasoning_content=None)],
        "chosen": [assistant("yes", reasoning_content="good")],
        "rejected": [assistant("no", reasoning_content="bad")],
    },
    "tools": {**ASKED, "tools": TOOLS},
    "tools as JSON": {**ASKED, "tools": json.dumps(TOOLS)},
    "no tools": {**ASKED, "tools": []},
    "template arguments": {**ASKED, "chat_template_kwargs": {"enable_thinking": False}},
    "a call in the prompt": {
        **ASKED,
        "prompt": [
            user("what time?", tool_calls=None),
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "7", "tool_calls": None},
        ],
    },
    "a shared beginning with a call": {
        "chosen": [user("t?"), {"role": "assistant", "content": "", "tool_calls": [CALL]}, assistant("seven")],
        "rejected": [user("t?"), {"role": "assistant", "content": "", "tool_calls": [CALL]}, assistant("no")],
    },
    "names": {**ASKED, "prompt": [user(" what? ", name="Ann"), assistant(" I see ", name="Bob")]},
    "roles that no family has": {**ASKED, "prompt": [{"role": "critic", "content": " be strict "}, user("q\n")]},
    "text with tools": {"prompt": "what time? ", "chosen": "seven", "rejected": "no", "tools": TOOLS},
}


@pytest.fixture(scope="module")
def trainer(tiny_model_folder, tmp_path_factory):
    """TRL's trainer, made once; `_prepare_dataset` is what it makes of every dataset that it is given."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = trl.DPOConfig(
        str(tmp_path_factory.mktemp("trl")),
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        max_length=None,
        report_to="none",
    )
    return trl.DPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_model_folder),
        args=settings,
        train_dataset=Dataset.from_list([ASKED]),
        processing_class=AutoTokenizer.from_pretrained(tiny_model_folder),
    )


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("template", [THINKING, TRIMMING], ids=["thinking", "trimming"])
@pytest.mark.parametrize("row", ROWS)
def test_tokens_are_those_of_trl(trainer, tiny_model_folder, row, template):
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    tokenizer.chat_template = template
    [theirs] = trainer._prepare_dataset(Dataset.from_list([ROWS[row]]), tokenizer, trainer.args, "train")
    objective = PreferenceObjective(format="preference", dataset_name="x")
    [(_, ours)] = Tokeniser(tokenizer, 512, "drop").tokenise(candidates([ROWS[row]], objective, None, "x"))
    assert ours.prompt.tolist() == theirs["prompt_ids"]
    assert ours.chosen.tolist() == theirs["chosen_ids"]
    assert ours.rejected.tolist() == theirs["rejected_ids"]
