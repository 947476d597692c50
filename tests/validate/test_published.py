"""Published perplexities: a known shape finds its row, and only the same measure is compared."""

import pytest

from salient.core.metrics import LogitsComparison
from salient.validate.likelihood.protocols import (
    PROTOCOLS,
    PUBLISHED,
    EvaluationProtocol,
    published_for,
)

LLAMA_2_7B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


def measured(reference: float, quantized: float) -> LogitsComparison:
    import math

    return LogitsComparison(10, 0.0, 10, 10, 10 * math.log(reference), 10 * math.log(quantized))


def test_a_model_is_recognized_by_its_shape_and_positions():
    (row,) = published_for(LLAMA_2_7B, PROTOCOLS["classic"], {})
    assert (row.model, row.reference, row.quantized) == ("Llama-2-7B", 5.47, 5.60)
    (older,) = published_for(
        LLAMA_2_7B | {"max_position_embeddings": 2048}, PROTOCOLS["classic"], {}
    )
    assert older.model == "Llama-7B"
    assert published_for(LLAMA_2_7B | {"hidden_size": 4097}, PROTOCOLS["classic"], {}) == ()
    assert published_for({}, PROTOCOLS["classic"], {}) == ()


def test_no_two_rows_have_one_model():
    assert len({row[0] for row in PUBLISHED.values()}) == len(PUBLISHED)


@pytest.mark.parametrize(
    ("protocol", "text", "message"),
    [
        (PROTOCOLS["classic"], "wikitext2", "this reference measures 5.48, the checkpoint 5.61"),
        (PROTOCOLS["sliding"], "wikitext2", "To compare: --text wikitext2 --protocol classic"),
        (EvaluationProtocol(512, 512), "wikitext2", "To compare"),
        (PROTOCOLS["classic"], "mine.txt", "To compare"),
    ],
)
def test_only_the_same_text_by_the_same_protocol_is_compared(protocol, text, message):
    (row,) = published_for(LLAMA_2_7B, protocol, {text: measured(5.48, 5.61)})
    assert message in row.summary
    assert (row.measured_reference is None) == ("To compare" in message)


def test_a_reference_with_another_perplexity_is_another_model():
    (row,) = published_for(LLAMA_2_7B, PROTOCOLS["classic"], {"wikitext2": measured(6.94, 7.10)})
    assert "measures 6.94: it has that shape and is another model" in row.summary
