"""The verb `export`: a checkpoint as a file of an engine that does not read it."""

from salient.core.errors import RequestError
from salient.core.report import Report

from .gguf_export import export_gguf
from .llama_cpp_converter import template_file
from .options import ExportOptions

ONNX = (
    "ONNX Runtime's own model builder reads Salient's checkpoints of the format awq: "
    "pip install onnxruntime-genai onnx onnx-ir, then "
    "python -m onnxruntime_genai.models.builder -i {} -o OUT -p int4 -e cpu. See docs/export.md."
)


def export_checkpoint_file(options: ExportOptions) -> Report:
    """Write the file. Raises SalientError, and leaves nothing, for what cannot be exported."""
    if options.to == "onnx":
        raise RequestError(ONNX.format(options.checkpoint))
    with template_file(options.template) as template:
        return export_gguf(options, template)
