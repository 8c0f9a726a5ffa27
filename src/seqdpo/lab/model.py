"""The lab's base model: a small Llama that speaks the lab's language. benchmarks/lab_model.py made it."""

from importlib.resources import files
from pathlib import Path


def lab_model_path() -> Path:
    """The folder of the model and its tokenizer in Hugging Face's form; it comes with the package."""
    return Path(str(files("seqdpo.lab") / "base_model"))
