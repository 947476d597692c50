"""Lines of an engine that breaks: NaN, faults of the GPU, and failures whose cause is elsewhere.

Texts of vLLM 0.32 from v1/engine/ and v1/executor/; of older versions from
engine/async_llm_engine.py; of PyTorch, CUDA and NVIDIA's driver.
"""

from salient.diagnose.log.signature import BEFORE, Signature

ABOVE = ("Read the findings above; if there are none, the first traceback of the log.",)

FAILURES = (
    Signature(
        id="not-a-number",
        level="error",
        anchor="probability tensor contains either `inf`, `nan` or element < 0",
        title="The model computes NaN or infinity: the answers are garbage",
        do=(
            "Serve with --dtype bfloat16: float16 may overflow.",
            "Serve with VLLM_COMPUTE_NANS_IN_LOGITS=1 to see which requests.",
            "Check the checkpoint: salient evaluate {model}",
        ),
        rank=10,
        example="RuntimeError: probability tensor contains either `inf`, `nan` or element < 0",
    ),
    Signature(
        id="not-a-number-json",
        level="error",
        anchor="Out of range float values are not JSON compliant",
        title="A log-probability is NaN or infinite: the answers may be garbage",
        certainty="likely",
        do=(
            "Serve with --dtype bfloat16: float16 may overflow.",
            "Check the checkpoint: salient evaluate {model}",
        ),
        rank=11,
        example="ValueError: Out of range float values are not JSON compliant: nan",
    ),
    Signature(
        id="illegal-memory",
        level="error",
        anchor="CUDA error: an illegal memory access was encountered",
        pattern=BEFORE + r"CUDA error: an illegal memory access was encountered",
        title="A GPU kernel read or wrote outside of its memory: a bug, or bad hardware",
        do=(
            "Serve once with CUDA_LAUNCH_BLOCKING=1 --enforce-eager: the traceback then names the "
            "kernel.",
            "Try the next vLLM release; rule out the GPU with nvidia-smi -q -d ECC",
        ),
        rank=18,
        example="torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
    ),
    Signature(
        id="device-assert",
        level="error",
        anchor="CUDA error: device-side assert triggered",
        pattern=BEFORE + r"CUDA error: device-side assert triggered",
        title="A GPU kernel refused its input, often a token outside of the vocabulary",
        do=("Check that tokenizer and weights belong together; CUDA_LAUNCH_BLOCKING=1 names it.",),
        rank=18,
        example="RuntimeError: CUDA error: device-side assert triggered",
    ),
    Signature(
        id="ecc",
        level="error",
        anchor="uncorrectable ECC error encountered",
        pattern=BEFORE + r"uncorrectable ECC error encountered",
        title="The GPU's memory is defective",
        do=("nvidia-smi -q -d ECC; reset or replace the GPU.",),
        rank=7,
        example="RuntimeError: CUDA error: uncorrectable ECC error encountered",
    ),
    Signature(
        id="gpu-lost",
        level="error",
        anchor="NVRM: Xid (",
        pattern=BEFORE + r"NVRM: Xid \(PCI:[^)]*\): (?P<number>48|63|64|74|79|94|95|119|120),",
        title="The driver reports a fault of the GPU (Xid {number})",
        do=(
            "Look the number up in NVIDIA's Xid catalogue; restart the machine, then test the GPU.",
        ),
        rank=7,
        example="NVRM: Xid (PCI:0000:3b:00): 79, pid=4711, GPU has fallen off the bus.",
    ),
    Signature(
        id="engine-failed",
        level="error",
        anchor="Engine core initialization failed.",
        title="The engine did not start; this line never says why",
        do=ABOVE,
        rank=98,
        consequence=True,
        example="RuntimeError: Engine core initialization failed. See root cause above. Failed "
        "core proc(s): {}",
    ),
    Signature(
        id="worker-failed",
        level="error",
        anchor="WorkerProc initialization failed due to an exception",
        title="A worker did not start; this line never says why",
        do=ABOVE,
        rank=97,
        consequence=True,
        example="Exception: WorkerProc initialization failed due to an exception in a background "
        "process. See stack trace for root cause.",
    ),
    Signature(
        id="engine-failed-old",
        level="error",
        anchor="Engine process failed to start.",
        title="The engine did not start; this line never says why",
        do=ABOVE,
        rank=98,
        consequence=True,
        versions="0.6 to 0.8",
        example="RuntimeError: Engine process failed to start. See stack trace for the root cause.",
    ),
    Signature(
        id="engine-dead",
        level="error",
        anchor="EngineCore encountered an issue. See stack trace",
        title="The engine died while it served; this line never says why",
        do=ABOVE,
        rank=96,
        consequence=True,
        example="vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See "
        "stack trace (above) for the root cause.",
    ),
    Signature(
        id="engine-dead-old",
        level="error",
        anchor="Background loop has errored already.",
        title="The engine died while it served; this line never says why",
        do=ABOVE,
        rank=96,
        consequence=True,
        versions="up to 0.8 (V0)",
        example="vllm.engine.async_llm_engine.AsyncEngineDeadError: Background loop has errored "
        "already.",
    ),
    Signature(
        id="worker-died",
        level="error",
        anchor=" died unexpectedly",
        pattern=r"(?:Worker proc|RayWorkerProc|Engine core process) .*died unexpectedly"
        r"(?! \(exit code: -9\))",
        title="A process of the engine ended without a word",
        do=(*ABOVE, "dmesg | tail shows whether the kernel killed it."),
        rank=95,
        consequence=True,
        example="Worker proc VllmWorker-1 died unexpectedly, shutting down executor.",
    ),
    Signature(
        id="start-timeout",
        level="error",
        anchor="Timed out waiting for engine core processes to start",
        title="The engine took too long to start",
        matters="Loading from a slow disk or network, or a worker that hangs.",
        do=("VLLM_ENGINE_READY_TIMEOUT_S=3600", "Put the model on a local disk."),
        rank=30,
        example="TimeoutError: Timed out waiting for engine core processes to start. This is often "
        "caused by slow weight loading for large models. Waited 600s",
    ),
    Signature(
        id="step-timeout",
        level="error",
        anchor="RPC call to ",
        pattern=r"RPC call to (?P<name>\w+) timed out",
        title="A worker did not answer a step in time ({name})",
        do=(
            "Look at the last lines of each worker above.",
            "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS=600",
        ),
        rank=90,
        consequence=True,
        example="TimeoutError: RPC call to execute_model timed out.",
    ),
)
