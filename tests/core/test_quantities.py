"""Numbers with units, as people type them: memory and tokens."""

import json

import pytest

from helpers.cli import invoke
from salient.core.errors import RequestError
from salient.core.options import parse_quantity


@pytest.mark.parametrize(
    ("text", "gib"),
    [("24", 24), ("24GB", 24), ("24 GiB", 24), ("24g", 24), ("79.6", 79.6), (".5TB", 512),
     ("24576MiB", 24), ("24564MB", 24564 / 1024), ("1,536mib", 1.5), ("-1", -1)],
)  # fmt: skip
def test_a_cards_gigabytes_are_gib(text, gib):
    assert parse_quantity(text, "memory", "--vram") == gib


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("131072", 131072), ("128k", 131072), ("128K", 131072), ("32Ki", 32768), ("1M", 2**20),
     ("10m", 10 * 2**20), ("8_192", 8192), ("8,192", 8192), ("1.5k", 1536)],
)  # fmt: skip
def test_thousands_of_tokens_are_1024(text, tokens):
    assert parse_quantity(text, "tokens", "--context-length") == tokens


@pytest.mark.parametrize("text", ["", "GB", "24 cards", "24GBs", "٢٤GB", "1e3", "2x24GB", "0x18"])
def test_another_unit_is_refused_with_those_that_fit(text):
    with pytest.raises(RequestError, match=r"--vram .* is not a number in GiB, such as 24, 24GB"):
        parse_quantity(text, "memory", "--vram")
    with pytest.raises(RequestError, match=r"--context .* is not a number of tokens, such as"):
        parse_quantity(text, "tokens", "--context")


def test_the_command_line_takes_them():
    model = "meta-llama/Llama-3.1-8B"
    result = invoke("plan", model, "--vram", "24GB", "--context", "16k", "--json")
    device = json.loads(result.stdout)["devices"][0]
    assert (device["gpu"]["memory"], device["context"]) == (24, 16384)
    for typed, message in (
        (("--vram", "24cards"), "--vram '24cards' is not a number in GiB"),
        (("--vram", "nan"), "No device has nan GiB"),
        (("--gpu", "H100", "--context", "1.0005k"), "is not a whole number of tokens"),
    ):
        result = invoke("plan", model, *typed)
        assert result.exit_code == 2
        assert message in result.stderr
