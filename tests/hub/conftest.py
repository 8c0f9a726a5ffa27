"""The stub hub with its stand-ins, and command lines that ask it through the hub's own clients.

Where the hub is, its clients read from the environment when they are imported; so they live in processes of their own.
"""

import json
import os
import subprocess
import sys
from typing import NamedTuple

import pytest
import upstream
from stub_hub import StubHub

#: Takes command lines on its standard input, one JSON a line, and answers with what they print and end with.
CLIENT = """
import contextlib, io, json, os, sys, time
from huggingface_hub import constants
from seqdpo import cli, hub
hub.SECONDS_TO_ANSWER = 1.0
time.sleep = lambda seconds: None  # a download that broke off is tried again without pauses
for line in sys.stdin:
    asked = json.loads(line)
    os.chdir(asked["folder"])
    sys.argv = ["seqdpo", *asked["arguments"]]
    constants.HF_HUB_OFFLINE = asked["offline"]
    if "datasets" in sys.modules:  # older releases ask once, when they are imported
        sys.modules["datasets"].config.HF_HUB_OFFLINE = asked["offline"]
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": asked["token"]} if asked["token"] else {})
    hub.hub_answers.cache_clear(), hub._asked.cache_clear()
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, output.getvalue(), errors.getvalue()]), flush=True)
"""


class Ended(NamedTuple):
    code: int
    output: str
    errors: str


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    upstream.write_llama(root / "models" / upstream.LLAMA)
    upstream.write_data_sets(root / "datasets")
    with StubHub(root).serving() as stub:
        yield stub


@pytest.fixture(scope="session")
def environment(hub, tmp_path_factory):
    """Of a user whose hub is the stub, with empty caches; quick to give up."""
    home = tmp_path_factory.mktemp("home")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "SEQDPO"))}
    return own | {
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": hub.address,
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",  # a protocol between the hub's own programs; the stub speaks HTTP
        "SEQDPO_CACHE": str(home / "seqdpo"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="session")
def client(environment):
    """`client(folder, "check", "s.yaml")` calls the command line in a process that lives on."""
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:

        def call(folder, *arguments, offline=False, token=None):
            asked = {"folder": str(folder), "arguments": [str(one) for one in arguments]}
            asked |= {"offline": offline, "token": token}
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            return Ended(*json.loads(process.stdout.readline()))

        yield call
        process.stdin.close()


@pytest.fixture(autouse=True)
def no_faults(request):
    yield
    if "hub" in request.fixturenames:
        request.getfixturevalue("hub").faults.clear()
