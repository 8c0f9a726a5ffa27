"""One file spoilt while a stage is half trained: its save, the run folder, the cache. It must be found, and change nothing.

    python benchmarks/faults/corruptions_inside.py

A small study of the lab runs once undisturbed, and once until the middle of its later stage. Then, on a copy each time,
one file is spoilt and the run goes on. It is right if the run ends with the bytes of the undisturbed one, and what was
spoilt was said; a file that is gone leaves nothing to be said but what is computed again.
"""

import shutil
import signal
import tempfile
from pathlib import Path

from corruptions import CACHE, COMMANDS, CORRUPTIONS, STAGE, STUDY, Bench, called

from seqdpo.runner import stage as node_stage

#: The step of the later stage after which the run was stopped.
STEP = 6
NODE = Path(STAGE).name
SAVE = f"run/saves/{NODE}/{STEP:09}"
KINDS = tuple(CORRUPTIONS)
#: Files and how each is spoilt: 25.
TRIALS = [
    *((f"{SAVE}/{name}", kind) for name in ("state.pt", "save.json") for kind in KINDS),
    *((CACHE, kind) for kind in ("cut in half", "one bit flipped", "another run's", "empty")),
    *(("run/stages/seed0.first/adapter/adapter_model.safetensors", kind) for kind in ("one bit flipped", "empty")),
    *(("run/stages/base/scores.parquet", kind) for kind in ("one bit flipped", "cut in half")),
    *((f"run/{name}", "one bit flipped") for name in ("manifest.json", "study.yaml", "data/pairs.parquet")),
]


class Inside(Bench):
    """A whole run, and one that was stopped inside a stage."""

    def __init__(self, root: Path) -> None:
        STUDY.update({"per_device_train_batch_size": 2, "save_minutes": 0, "placebo": 0, "mechanism_pairs": 0})
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
        super().__init__(root)
        self.stopped = root / "stopped"
        self.stopped.mkdir()
        shutil.copy(root / "whole" / "study.yaml", self.stopped)
        on_step = node_stage._on_step

        def stopping(bench, step):
            on_step(bench, step)
            if step.step == STEP and (bench.folder.stage(None).parent / "seed0.first").is_dir():
                signal.raise_signal(signal.SIGINT)

        node_stage._on_step = stopping
        answer = called(self.stopped, *COMMANDS["run"])
        node_stage._on_step = on_step
        assert (self.stopped / SAVE / "state.pt").is_file(), answer

    def trial(self, file: str, kind: str) -> list[str]:
        """What is wrong with how a run went on."""
        copy = self.root / "copy"
        shutil.copytree(self.stopped, copy)
        paths = [copy / file] if file != CACHE else sorted((copy / CACHE).iterdir())
        contents = [path.read_bytes() for path in paths]
        for place, path in enumerate(paths):
            # of the cache the next entry; of a save, the record for the state and the state for the record
            other = paths[place - 1] if file == CACHE else self._other(copy, file)
            content = contents[place - 1] if file == CACHE else other.read_bytes()
            (copy / "other").write_bytes(content)
            CORRUPTIONS[kind](path, copy / "other")
        answer = called(copy, *COMMANDS["run"])
        problems = self.differences(copy, "run", answer)
        told = " ".join((answer.output + answer.errors).split())
        if kind != "missing" and not any(word in told for word in SAID[file]):
            problems.append(f"not said: {told[-400:]}")
        shutil.rmtree(copy)
        return problems

    def _other(self, copy: Path, file: str) -> Path:
        return copy / (file.replace("state.pt", "save.json") if "state.pt" in file else f"{SAVE}/state.pt")


_BELIEVED = ("cannot be believed", "set aside", "computed again")
#: What a message says of each; of what the run writes anew, nothing has to be said.
SAID = {file: _BELIEVED for file, _ in TRIALS} | {
    f"run/{name}": ("",) for name in ("manifest.json", "study.yaml", "data/pairs.parquet")
}


def main() -> None:
    """Prints a line for each trial; exit 1 if one was not as it should be."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Inside(Path(folder))
        for file, kind in TRIALS:
            problems = bench.trial(file, kind)
            wrong += bool(problems)
            print(f"{file}, {kind}: {problems or 'found, the same bytes'}", flush=True)
    print(f"{len(TRIALS)} corruptions, {wrong} wrong")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
