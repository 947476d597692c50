"""Uploading a checkpoint: real requests to a stand-in for the Hub, and what is refused before."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from helpers.hub_server import TOKEN, HubServer
from helpers.runs import run
from salient import api
from salient.core.errors import CheckpointError, ModelError, RequestError
from salient.core.source_card import join_card, split_card


@pytest.fixture(scope="module")
def finished(toy, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("push") / "toy-w4"
    run(toy, out, text)
    return out


@pytest.fixture
def checkpoint(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "toy-w4")


def push(hub, *argv, token=TOKEN):
    """The exit code, standard output and errors of `salient push`."""
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))
    }
    env |= {"HF_ENDPOINT": hub if isinstance(hub, str) else hub.url, "HF_HUB_DISABLE_XET": "1"}
    env |= {"HF_HOME": "/nonexistent", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "COLUMNS": "200"}
    env |= {"HF_TOKEN": token} if token else {}
    command = [sys.executable, "-m", "salient", "push", *map(str, argv)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, " ".join(done.stderr.split())


def digests(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_a_checkpoint_arrives_whole_in_one_commit(checkpoint):
    expected = digests(checkpoint)
    (checkpoint / ".cache").mkdir()
    (checkpoint / ".cache" / "note").write_text("x")
    (checkpoint / "weights.tmp").write_text("x")
    (checkpoint / "link.txt").symlink_to("config.json")
    with HubServer() as hub:
        code, out, errors = push(hub, checkpoint, "org/toy", "--private", "--json")
    assert code == 0, errors
    data = json.loads(out)
    assert hub.commits == {"main": expected}
    assert hub.repos == {"org/toy": True}
    assert hub.messages == ["Upload toy-w4 with Salient"]
    assert split_card(hub.cards[0])[0]["quantized_by"] == "salient"
    assert data["url"] == f"{hub.url}/org/toy/commit/0123"
    assert data["left_out"].keys() == {".cache/note", "weights.tmp", "link.txt"}


def test_a_revision_and_a_message_are_those_of_the_commit(checkpoint):
    with HubServer() as hub:
        code, _, errors = push(
            hub, checkpoint, "org/toy", "--revision", "w4", "--commit-message", "Mine"
        )
    assert code == 0, errors
    assert hub.commits.keys() == {"w4"}
    assert hub.messages == ["Mine"]
    assert any("/branch/w4" in request for request in hub.requests)


def test_a_dry_run_lists_files_card_and_problems_and_sends_nothing(checkpoint):
    with HubServer() as hub:
        code, out, _ = push(hub, checkpoint, "org/toy", "--dry-run", "--json")
    data = json.loads(out)
    assert (code, hub.requests, data["url"]) == (0, [], None)
    assert data["files"] == {
        name: (checkpoint / name).stat().st_size for name in sorted(digests(checkpoint))
    }
    assert data["front_matter"]["quantized_by"] == "salient"
    assert [problem.partition(":")[0] for problem in data["problems"]] == [
        "README.md names no base_model",
        "README.md names no license",
    ]


def test_problems_of_a_checkpoint_are_listed(checkpoint, monkeypatch):
    (checkpoint / "salient.json").unlink()
    front, body = split_card((checkpoint / "README.md").read_text())
    card = join_card({**front, "license": "mit"}, body + "\nFrom /home/me/models/toy.\n")
    (checkpoint / "README.md").write_text(card)
    monkeypatch.setattr("salient.hub.push.LARGEST_FILE", 100_000)
    problems = api.push(checkpoint, "org/toy", dry_run=True).report.data["problems"]
    assert problems == [
        "model.safetensors has 120 KiB; the Hub takes at most 98 KiB a file.",
        "No salient.json: the checkpoint carries no evidence.",
        "README.md names no base_model: add it to its front matter.",
        "README.md has a path of this machine: /home/me/models/toy.",
    ]
    with pytest.raises(CheckpointError, match="the Hub takes at most"):
        api.push(checkpoint, "org/toy")


def test_a_folder_that_is_no_finished_checkpoint_is_refused(checkpoint, toy, tmp_path):
    with pytest.raises(CheckpointError, match="is no quantized checkpoint: its config"):
        api.push(toy, "org/toy", dry_run=True)
    with pytest.raises(CheckpointError, match=r"No folder '.*nothing'"):
        api.push(tmp_path / "nothing", "org/toy", dry_run=True)
    partial = checkpoint.rename(tmp_path / "out.partial")
    with pytest.raises(CheckpointError, match="is of an unfinished run"):
        api.push(partial, "org/toy", dry_run=True)
    whole = partial.rename(tmp_path / "out")
    with (whole / "model.safetensors").open("r+b") as file:
        file.truncate(50_000)
    with pytest.raises(ModelError):
        api.push(whole, "org/toy", dry_run=True)
    (whole / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        api.push(whole, "org/toy", dry_run=True)


@pytest.mark.parametrize("repo", ["toy", "org/a/b", "-org/x", "org/na me", "https://hf.co/org/x"])
def test_a_name_that_no_repository_has_is_refused(repo, checkpoint):
    with pytest.raises(RequestError, match=r"is no repository of the Hub\. Give org/name"):
        api.push(checkpoint, repo, dry_run=True)


@pytest.mark.parametrize(
    ("options", "token", "argv", "message"),
    [
        ({}, "hf_wrong", (), "does not know this token, or org/toy is not yours. Log in with"),
        ({}, "", (), "Log in with `hf auth login`, or set HF_TOKEN"),
        ({"writable": False}, TOKEN, (), "does not let this token write to org/toy. Use a token"),
        (
            {"public": ("org/toy",)},
            TOKEN,
            ("--private",),
            "org/toy exists and is public; --private",
        ),
    ],
    ids=["wrong token", "no token", "no write access", "public"],
)
def test_a_refusal_of_the_hub_says_what_to_do(options, token, argv, message, checkpoint):
    with HubServer(**options) as hub:
        code, _, errors = push(hub, checkpoint, "org/toy", *argv, token=token)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors
    assert not hub.commits


def test_a_hub_that_does_not_answer_is_named(checkpoint):
    code, _, errors = push("http://127.0.0.1:9", checkpoint, "org/toy")
    assert code == 2
    assert "The upload did not end" in errors
    assert "Check the network" in errors
