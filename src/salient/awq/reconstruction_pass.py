"""The reconstruction pass: learn each finished block on the hidden states of the quantized model.

It goes forward, with two streams of the calibration tokens: the 16-bit model's gives each block's
target output, the quantized model's its input. The weight of a token is the mean squared gradient
of the end loss at the block's output, which the backward pass leaves in a file, with the scales
that the block's weights were rounded with.
"""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from salient.core.evidence import BlockEvidence, ReconstructionEvidence
from salient.formats.writer import write_tensors

from .block_reconstruction import (
    Reconstruction,
    ReconstructionBatch,
    ReconstructionSettings,
    reconstruct_block,
    rounding_residual,
)
from .heldout import HeldoutStreams
from .partial_shards import LEARNED, NOTES
from .results import BlockResult
from .run_state import QuantizeRun
from .token_streams import TokenStream

BATCH_TOKENS = 1024  # of a step
MOST_ROUNDS = 2  # of all batches: a block learns few tokens by heart (benchmarks/RESULTS.md)
CALIBRATION, HELDOUT, COLUMNS, ROWS = "calibration", "heldout", ".columns", ".rows"


def write_notes(
    run: QuantizeRun, index: int, result: BlockResult, calibration: Tensor, heldout: Tensor
) -> Path:
    """Write what the reconstruction of block `index` needs besides its file; returns the path.

    `calibration`, `heldout`: the tokens' weights at its output, float32 [samples, tokens]
    """
    tensors = {CALIBRATION: calibration, HELDOUT: heldout}
    tensors |= {f"{name}{COLUMNS}": scale.clone() for name, scale in result.columns.items()}
    tensors |= {f"{name}{ROWS}": scale.clone() for name, scale in result.rows.items()}
    path = run.pieces.path(index, NOTES)
    write_tensors(path, tensors)
    return path


class ReconstructionPass:
    """The calibration tokens at the current block: the 16-bit and the quantized model's states."""

    def __init__(self, run: QuantizeRun):
        self._run = run
        self._reference = TokenStream(run.skeleton, run.samples, BATCH_TOKENS)
        self._quantized = TokenStream(run.skeleton, run.samples, BATCH_TOKENS)

    def pass_reference(self, index: int, block: nn.Module) -> None:
        """Move the 16-bit model's states over `block`."""
        self._reference.forward(index, block)

    def pass_quantized(self, index: int, block: nn.Module) -> None:
        """Move the quantized model's states over `block`, as it is written."""
        self._quantized.forward(index, block)

    def learn(self, index: int, streams: HeldoutStreams) -> tuple[Path, BlockEvidence]:
        """Learn block `index`; write its file and return its evidence.

        Of the held-out tokens, `streams` has the quantized model's input and the 16-bit model's
        output.
        """
        run, name = self._run, self._run.skeleton.blocks[index]
        run.show(run.done, f"{name}: learning its roundings")
        block = run.skeleton.block(index, torch.float32)
        run.pieces.read_block(run.pieces.path(index), index, block)
        written = run.pieces.read_codes(run.pieces.path(index), index)
        notes = load_file(run.pieces.path(index, NOTES))
        weights = notes[CALIBRATION].split([len(batch) for batch in self._reference.batches])
        streams_of_batches = zip(
            self._quantized.states,
            self._reference.states,
            weights,
            self._reference.calls,
            strict=True,
        )
        batches = [
            ReconstructionBatch(inputs, targets, weight, calls[index])
            for inputs, targets, weight, calls in streams_of_batches
        ]
        own = ReconstructionBatch(
            streams.written, streams.reference, notes[HELDOUT], streams.calls[index].every
        )
        result = reconstruct_block(
            block,
            written.weights,
            batches,
            [own],
            run.target.dtype,
            ReconstructionSettings(
                steps=min(run.effort.reconstruction_steps, MOST_ROUNDS * len(batches))
            ),
            residuals=self._residuals(index, written, notes),
        )
        path = run.pieces.path(index, LEARNED)
        run.pieces.write_block(path, index, replace(written, weights=result.codes))
        return path, self._evidence(name, result)

    def _residuals(
        self, index: int, written: BlockResult, notes: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """What the first rounding of each linear lacks to its scaled weight."""
        residuals = {}
        for name, codes in written.weights.items():
            weight = self._run.skeleton.files.read(
                f"{self._run.skeleton.blocks[index]}.{name}.weight"
            ).float()
            weight = weight * notes.get(f"{name}{COLUMNS}", torch.ones(()))
            if (rows := notes.get(f"{name}{ROWS}")) is not None:
                weight = weight / rows[:, None]
            residuals[name] = rounding_residual(weight, codes)
        return residuals

    def _evidence(self, name: str, result: Reconstruction) -> BlockEvidence:
        evidence = self._run.finished[name].evidence
        assert evidence is not None
        learned = ReconstructionEvidence(
            result.before, result.after, result.step, result.changed, result.refusal
        )
        return replace(evidence, reconstruction=learned)
