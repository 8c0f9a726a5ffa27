"""README's own commands against a hub: the four settings under the names and in the layouts that they have there."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import upstream
from stub_hub import commit_of

#: What makes the reference study small; everything else is as `seqdpo init` writes it.
SMALL = ["--lora-r", 4, "--placebo", 0, "--mechanism-pairs", 4, "--gradient-trace-points", 2]
#: Pairs to train on and to evaluate, by objective; UltraFeedback and its 36 prompts have no test split.
PAIRS = {
    "hh-rlhf": {"helpful": (16, 8), "harmless": (16, 8)},
    "helpsteer2": {"helpfulness": (16, 8), "verbosity": (16, 8)},
    "pku-saferlhf": {"helpful": (48, 24), "safe": (48, 24)},
    "ultrafeedback": {"helpfulness": 36, "honesty": 36},
}


def test_init_check_plan_and_run_go_through(hub, environment, tmp_path):
    seqdpo, study = f"'{sys.executable}' -m seqdpo", "hh-rlhf.yaml"
    small = " ".join(map(str, SMALL))
    commands = [f"{seqdpo} init hh-rlhf", *(f"{seqdpo} {verb} {study} {small}" for verb in ("check", "plan", "run"))]
    ended = subprocess.run(
        " && ".join(commands), shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert "No problems found." in ended.stdout
    assert "hh-rlhf: 4 stages" in ended.stdout
    assert "Everything is in runs/hh-rlhf/" in ended.stdout
    run = tmp_path / "runs" / "hh-rlhf"
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["identity"]["model"] == f"{upstream.LLAMA}@{commit_of(upstream.LLAMA)}"
    # 3 checkpoints of 2 orders, 2 objectives with 8 held-out pairs
    assert pq.read_table(run / "scores.parquet").num_rows == 3 * 2 * 2 * 8
    assert f'base_model: "{upstream.LLAMA}"' in (run / "report.md").read_text()


@pytest.mark.parametrize("setting", PAIRS)
def test_check_and_plan_of_every_setting(hub, client, tmp_path, setting):
    assert client(tmp_path, "init", setting).code == 0
    checked = client(tmp_path, "check", f"{setting}.yaml")
    assert checked.code == 0, checked.errors
    for objective, expected in PAIRS[setting].items():
        [row] = [line.split() for line in checked.output.splitlines() if line.split()[:1] == [objective]]
        train, held_out = int(row[4]), int(row[5])  # after what was read, over limits and dropped
        if isinstance(expected, int):
            assert train + held_out == expected
            assert held_out
        else:
            assert (train, held_out) == expected
    planned = client(tmp_path, "plan", f"{setting}.yaml")
    assert planned.code == 0, planned.errors
    assert f"{setting}: 12 stages" in planned.output


@pytest.mark.parametrize("setting", sorted(PAIRS.keys() - {"hh-rlhf"}))  # which the first test runs
def test_run_of_every_other_setting(hub, client, tmp_path, setting):
    client(tmp_path, "init", setting)
    few = ["--max-train-pairs", 8, "--max-eval-pairs", 4, "--eval-fraction", 0.3]
    ended = client(tmp_path, "run", f"{setting}.yaml", *SMALL, *few)
    assert ended.code == 0, ended.errors
    run = tmp_path / "runs" / setting
    scores = pq.read_table(run / "scores.parquet", columns=["objective", "checkpoint"])
    first, second = PAIRS[setting]
    assert set(scores["checkpoint"].to_pylist()) == {
        *("base", first, second),
        *(f"{first}>{second}", f"{second}>{first}"),
    }
    assert scores.num_rows == 3 * 2 * 2 * 4  # checkpoints of 2 orders, 2 objectives with 4 held-out pairs
    assert (run / "report.html").stat().st_size


def test_what_was_read_once_is_read_again_without_the_hub(hub, client, tmp_path):
    client(tmp_path, "init", "hh-rlhf")
    small = [*SMALL, "--orders", "[[helpful]]", "--gradient-trace-points", 0, "--mechanism-pairs", 0]
    online = client(tmp_path, "run", "hh-rlhf.yaml", *small, "--output-dir", "online")
    assert online.code == 0, online.errors
    asked = len(hub.asked)
    offline = client(tmp_path, "run", "hh-rlhf.yaml", *small, "--output-dir", "offline", offline=True)
    assert offline.code == 0, offline.errors
    assert len(hub.asked) == asked
    online, offline = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("online", "offline"))
    assert online["identity"] == offline["identity"]
