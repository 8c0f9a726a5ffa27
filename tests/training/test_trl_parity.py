"""seqdpo against TRL's DPOTrainer: tokens, loss, gradients and whole stages, from the same text and weights.

TRL does all of its own way here: its chat template call, its padding (on the right), its fused head, its reference.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from seqdpo.measure.scores import pair_logps
from seqdpo.policy.adapters import lora_config, save_adapter, trainable_policy
from seqdpo.preferences.pairs import TEXT_ROLE, Message, Pair
from seqdpo.preferences.tokens import PairTokens, Tokeniser
from seqdpo.study.losses import LOSSES
from seqdpo.training.pairs import TrainingPairs
from seqdpo.training.stage import _step_indices, mean_gradient, train_stage

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'seqdpo[test]'")

#: TRL 1.16 gives transformers 5.23 its setting by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

BETA = 0.3
#: float32 carries 6e-8; TRL pads on the other side and sums in another order. Entries of a gradient may cancel to
#: rounding noise, so gradients are compared by the norm of each tensor.
TOLERANCE = 1e-5

CONVERSATIONS = [
    Pair((Message("user", "What is the answer?"),), "The answer is seven.", "Ask the model again, and again."),
    Pair(
        (
            Message("system", "Be brief."),
            Message("user", "And the model?"),
            Message("assistant", "Which?"),
            Message("user", "That one."),
        ),
        "No.",
        "The tests ask the model what the answer is, and the answer is that the tests ask the model.",
    ),
    Pair((Message("user", "naïve café, 3 × 4 = ?"),), "12 🙂", "twelve\n\nor so"),
    Pair((Message("user", "q"),), "a", "b"),
    Pair((Message("user", "  spaces  around "),), " leading", "trailing "),
]
TEXTS = [
    Pair((Message(TEXT_ROLE, "Question: what is the answer?\nAnswer:"),), " seven", " the tests ask the model"),
    Pair((Message(TEXT_ROLE, "The model asks"),), " the tests.", ", again and again, what the answer is."),
    Pair((Message(TEXT_ROLE, "1 + 1 ="),), " 2<end>", " 3"),  # an end token that is there is not doubled
    Pair((Message(TEXT_ROLE, "The model asks the te"),), "sts", "apot"),  # " tests" is one token: the prompt is cut
]
FORMATS = pytest.mark.parametrize("pairs", [CONVERSATIONS, TEXTS], ids=["conversations", "texts"])


def trl_row(pair: Pair) -> dict[str, Any]:
    """The pair in TRL's own format, conversational or standard."""
    if pair.prompt[0].role == TEXT_ROLE:
        return {"prompt": pair.prompt[0].content, "chosen": pair.chosen, "rejected": pair.rejected}
    return {
        "prompt": [message._asdict() for message in pair.prompt],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
    }


@pytest.fixture
def dpo_trainer(tiny_model_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """TRL's trainer on the CPU in float32, writing nothing; the model's own tokenizer."""

    def make(model: Any, pairs: list[Pair], ref_model: Any = None, peft_config: Any = None, **arguments: Any) -> Any:
        from datasets import Dataset

        defaults: dict[str, Any] = {
            "beta": BETA,
            "bf16": False,
            "use_cpu": True,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": len(pairs),
            "max_length": None,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }
        with torch.random.fork_rng():  # the trainer seeds torch for everyone
            return trl.DPOTrainer(
                model,
                ref_model=ref_model,
                args=trl.DPOConfig(str(tmp_path / "trl"), **(defaults | arguments)),
                train_dataset=Dataset.from_list([trl_row(pair) for pair in pairs]),
                processing_class=AutoTokenizer.from_pretrained(tiny_model_folder),
                peft_config=peft_config,
            )

    return make


@pytest.fixture
def fresh_base(tiny_model_folder: Path) -> Callable[[], Any]:
    return lambda: AutoModelForCausalLM.from_pretrained(tiny_model_folder)


@pytest.fixture
def tokenise(tiny_model_folder: Path) -> Callable[[list[Pair]], list[PairTokens]]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    return lambda pairs: [tokens for _, tokens in Tokeniser(tokenizer, 1024, "raise").tokenise(pairs)]


@pytest.fixture
def training_pairs(tiny_model, tokenise) -> Callable[[list[Pair]], TrainingPairs]:
    """Tokenised, with the base as the reference; to be made before an adapter is put into the base."""

    def make(pairs: list[Pair], ld_alpha: float | None = None) -> TrainingPairs:
        tokens = tokenise(pairs)
        reference = pair_logps(tiny_model, tokens, 1000, tail_weight=ld_alpha)
        return TrainingPairs([pair.pair_id for pair in pairs], tokens, *reference)

    return make


@pytest.fixture
def first_stage(tiny_model, make_study, training_pairs, tmp_path) -> Path:
    """An adapter after a few real steps, so that B is not 0."""
    study = make_study(beta=BETA, learning_rate=1e-3, per_device_train_batch_size=2, num_train_epochs=2)
    pairs = training_pairs(CONVERSATIONS)
    with trainable_policy(tiny_model, study, None, seed=1) as policy:
        train_stage(policy, pairs, study, 1, lambda step: None)
        save_adapter(policy, study, None, tmp_path / "first")
    return tmp_path / "first"


def adapter_of(policy: PeftModel) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in policy.named_parameters() if ".default." in name}


def moved(policy: PeftModel) -> PeftModel:
    """B away from 0, else A has no gradient to compare."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter_of(policy).values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return policy


def copy_adapter(source: dict[str, Tensor], policy: PeftModel) -> None:
    target = adapter_of(policy)
    assert target.keys() == source.keys()
    with torch.no_grad():
        for name, parameter in target.items():
            parameter.copy_(source[name])


def trl_loss_and_gradients(trainer: Any) -> tuple[float, dict[str, Tensor]]:
    batch = trainer.data_collator(list(trainer.train_dataset))
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in adapter_of(trainer.model).items()}


def our_loss_and_gradients(policy: PeftModel, pairs: TrainingPairs, study) -> tuple[float, dict[str, Tensor]]:
    policy.train()
    sums, gradients = mean_gradient(policy, pairs, study)
    return sums.loss / pairs.n_pairs, dict(zip(adapter_of(policy), gradients, strict=True))


def assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert len(actual) == 2 * 7 * 2  # A and B of seven linear layers in two blocks
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        assert (actual[name] - gradient).norm() <= TOLERANCE * gradient.norm(), name


@FORMATS
def test_token_ids_are_those_of_trl(pairs, dpo_trainer, fresh_base, make_study, tokenise):
    rows = list(dpo_trainer(fresh_base(), pairs, peft_config=lora_config(make_study())).train_dataset)
    tokens = tokenise(pairs)
    assert [t.prompt.tolist() for t in tokens] == [row["prompt_ids"] for row in rows]
    assert [t.chosen.tolist() for t in tokens] == [row["chosen_ids"] for row in rows]
    assert [t.rejected.tolist() for t in tokens] == [row["rejected_ids"] for row in rows]


def test_prompt_that_merges_into_a_response_is_among_the_texts(tiny_model_folder, tokenise):
    """Else the test above says nothing of the rule for such prompts."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    alone = [len(tokenizer(pair.prompt[0].content)["input_ids"]) for pair in TEXTS]
    assert [len(t.prompt) < n for t, n in zip(tokenise(TEXTS), alone, strict=True)] == [False, False, False, True]


@FORMATS
def test_new_adapter_has_the_loss_and_gradients_of_trl(
    pairs, tiny_model, make_study, training_pairs, dpo_trainer, fresh_base
):
    """Against the base, which TRL takes from the disabled adapter and seqdpo from numbers it has computed before."""
    study, against_base = make_study(beta=BETA), training_pairs(pairs)
    with trainable_policy(tiny_model, study, None, seed=0) as policy:
        weights = {name: p.detach().clone() for name, p in adapter_of(moved(policy)).items()}
        loss, gradients = our_loss_and_gradients(policy, against_base, study)
    trainer = dpo_trainer(fresh_base(), pairs, peft_config=lora_config(study))
    copy_adapter(weights, trainer.model)
    trl_loss, trl_gradients = trl_loss_and_gradients(trainer)
    assert abs(trl_loss - math.log(2)) > 0.01  # the adapter does something
    assert loss == pytest.approx(trl_loss, rel=TOLERANCE)
    assert_same_gradients(gradients, trl_gradients)


@FORMATS
def test_second_stage_has_the_loss_and_gradients_of_trl_with_the_base_as_reference(
    pairs, tiny_model, make_study, training_pairs, first_stage, dpo_trainer, fresh_base
):
    study, against_base = make_study(beta=BETA), training_pairs(pairs)
    with trainable_policy(tiny_model, study, first_stage, seed=0) as policy:
        loss, gradients = our_loss_and_gradients(policy, against_base, study)
    continued = PeftModel.from_pretrained(fresh_base(), str(first_stage), is_trainable=True)
    trl_loss, trl_gradients = trl_loss_and_gradients(dpo_trainer(continued, pairs, ref_model=fresh_base()))
    assert loss == pytest.approx(trl_loss, rel=TOLERANCE)
    assert_same_gradients(gradients, trl_gradients)


def test_trl_left_to_itself_refers_a_second_stage_to_the_first_and_seqdpo_to_the_base(
    tiny_model, make_study, training_pairs, first_stage, dpo_trainer, fresh_base
):
    """Without `ref_model` TRL keeps a copy of the loaded adapter: its second stage starts at log 2 and has no memory
    of the base. `reference: previous` of seqdpo is the same loss."""
    study = make_study(beta=BETA)
    pairs = training_pairs(CONVERSATIONS)
    with trainable_policy(tiny_model, study, first_stage, seed=0) as policy:
        parents = pair_logps(policy.eval(), pairs.tokens, 1000)
        loss, _ = our_loss_and_gradients(policy, pairs, study)
        to_previous = pairs._replace(reference_chosen=parents.chosen, reference_rejected=parents.rejected)
        previous_loss, previous_gradients = our_loss_and_gradients(policy, to_previous, study)
    continued = PeftModel.from_pretrained(fresh_base(), str(first_stage), is_trainable=True)
    trl_loss, trl_gradients = trl_loss_and_gradients(dpo_trainer(continued, CONVERSATIONS))
    assert trl_loss == pytest.approx(math.log(2), rel=TOLERANCE)
    assert loss < math.log(2) - 0.1  # the first stage learned these pairs
    assert previous_loss == pytest.approx(trl_loss, rel=TOLERANCE)
    assert_same_gradients(previous_gradients, trl_gradients)


#: Every loss, and tokens weighed by length with one whose log-ratios are summed and one whose are averaged.
EVERY_LOSS = pytest.mark.parametrize(
    "keys",
    [
        *({"loss_type": name} | ({"label_smoothing": 0.1} if loss.smooths else {}) for name, loss in LOSSES.items()),
        {"ld_alpha": 0.4},
        {"ld_alpha": 0.0, "loss_type": "sigmoid_norm"},
    ],
    ids=lambda keys: "-".join(map(str, keys.values())),
)


@EVERY_LOSS
def test_first_stage_of_every_loss_is_that_of_trl(
    keys, tiny_model, make_study, training_pairs, dpo_trainer, fresh_base
):
    """The loss and the adapter's gradients, as above."""
    study = make_study(beta=BETA, **keys)
    against_base = training_pairs(CONVERSATIONS, study.ld_alpha)
    with trainable_policy(tiny_model, study, None, seed=0) as policy:
        weights = {name: p.detach().clone() for name, p in adapter_of(moved(policy)).items()}
        loss, gradients = our_loss_and_gradients(policy, against_base, study)
    trainer = dpo_trainer(fresh_base(), CONVERSATIONS, peft_config=lora_config(study), **keys)
    copy_adapter(weights, trainer.model)
    trl_loss, trl_gradients = trl_loss_and_gradients(trainer)
    assert loss == pytest.approx(trl_loss, rel=TOLERANCE)
    assert_same_gradients(gradients, trl_gradients)


@EVERY_LOSS
def test_second_stage_of_every_loss_is_that_of_trl_with_either_reference(
    keys, tiny_model, make_study, training_pairs, first_stage, dpo_trainer, fresh_base
):
    """The adapter goes on; the base as TRL's `ref_model`, then TRL left to itself, which is `reference: previous`."""
    study = make_study(beta=BETA, **keys)
    against_base = training_pairs(CONVERSATIONS, study.ld_alpha)
    with trainable_policy(tiny_model, study, first_stage, seed=0) as policy:
        parents = pair_logps(policy.eval(), against_base.tokens, 1000, tail_weight=study.ld_alpha)
        against_previous = against_base._replace(reference_chosen=parents.chosen, reference_rejected=parents.rejected)
        moved(policy)
        found = [our_loss_and_gradients(policy, pairs, study) for pairs in (against_base, against_previous)]
    for (loss, gradients), ref_model in zip(found, (fresh_base(), None), strict=True):
        continued = PeftModel.from_pretrained(fresh_base(), str(first_stage), is_trainable=True)
        trainer = dpo_trainer(continued, CONVERSATIONS, ref_model=ref_model, **keys)
        moved(trainer.model)
        trl_loss, trl_gradients = trl_loss_and_gradients(trainer)
        assert loss == pytest.approx(trl_loss, rel=TOLERANCE)
        assert_same_gradients(gradients, trl_gradients)


@pytest.mark.parametrize("max_grad_norm", [0.5, 100.0])
def test_a_stage_takes_the_steps_of_trl(max_grad_norm, tiny_model, make_study, training_pairs, dpo_trainer, fresh_base):
    """Six steps in the order that seqdpo drew, with warm-up, decay and accumulation of two batches of two.

    Adam's epsilon is 1e-2: at 1e-8 gradients that cancel to noise move as far as others. 1e-4: steps pass on the
    rounding of those before them.
    """
    conversations = (CONVERSATIONS * 5)[:24]
    keys = {
        "learning_rate": 0.05,
        "warmup_steps": 2,
        "weight_decay": 0.01,
        "adam_epsilon": 1e-2,
        "max_grad_norm": max_grad_norm,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "lr_scheduler_type": "linear",
    }
    study = make_study(beta=BETA, **keys)
    pairs = training_pairs(conversations)
    with trainable_policy(tiny_model, study, None, seed=0) as policy:
        start = {name: p.detach().clone() for name, p in adapter_of(moved(policy)).items()}
        steps = train_stage(policy, pairs, study, 5, lambda step: None)
        ours = {name: p.detach() - start[name] for name, p in adapter_of(policy).items()}

    order = [i for _, step in _step_indices(24, study, 5) for i in step]
    trainer = dpo_trainer(
        fresh_base(),
        [conversations[i] for i in order],
        peft_config=lora_config(study),
        train_sampling_strategy="sequential",
        num_train_epochs=1,
        logging_steps=1,
        **keys,
    )
    copy_adapter(start, trainer.model)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    for column, tolerance in (("loss", 1e-4), ("grad_norm", 1e-4), ("learning_rate", 1e-12)):
        np.testing.assert_allclose(steps[column].to_numpy(), [entry[column] for entry in log], rtol=tolerance)
    clipped = steps["grad_norm"].to_numpy() > max_grad_norm
    assert clipped.any() == (max_grad_norm == 0.5)
    for name, parameter in adapter_of(trainer.model).items():
        change = parameter.detach() - start[name]
        assert (ours[name] - change).norm() <= 1e-4 * change.norm(), name
