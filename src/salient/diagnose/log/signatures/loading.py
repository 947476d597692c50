"""Lines about a model's files: not found, not allowed, broken, not known, without a tokenizer.

Texts of vLLM 0.32 from model_loader/, models/registry.py and transformers_utils/; of Transformers,
huggingface_hub and safetensors.
"""

from salient.diagnose.log.signature import Signature

LOGIN = (
    "Accept the model's terms on its page at https://huggingface.co/{model}",
    "hf auth login (or HF_TOKEN=... in the server's environment; docker run -e HF_TOKEN).",
)
UPGRADE = ("Upgrade both: pip install -U vllm transformers",)

LOADING = (
    Signature(
        id="architecture-unknown",
        level="error",
        anchor="Model architectures [",
        pattern=r"Model architectures \[(?P<names>[^\]]*)\] are not supported for now",
        title="This vLLM ({version}) has no code for {names}",
        do=(
            "Upgrade vLLM; the list of models is at https://docs.vllm.ai/en/latest/models/",
            "Or try Transformers' own code: --model-impl transformers",
        ),
        rank=10,
        example="ValueError: Model architectures ['Qwen3ForCausalLM'] are not supported for now. "
        "Supported architectures: ['AquilaModel']",
    ),
    Signature(
        id="architecture-dropped",
        level="error",
        anchor="Model architecture ",
        pattern=r"Model architecture (?P<name>\w+) was supported in vLLM until v(?P<until>[\d.]+)",
        title="vLLM {until} was the last version with code for {name}",
        do=("pip install vllm=={until}",),
        rank=10,
        example="ValueError: Model architecture Phi3SmallForCausalLM was supported in vLLM until "
        "v0.9.2, and is not supported anymore.",
    ),
    Signature(
        id="architecture-broken",
        level="error",
        anchor="Model architectures [",
        pattern=r"Model architectures \[(?P<names>[^\]]*)\] failed to be inspected",
        title="vLLM's code for {names} could not be imported; the cause stands above",
        certainty="likely",
        do=("Look for the ImportError above; often a package is too old. " + UPGRADE[0],),
        rank=40,
        consequence=True,
        example="ValueError: Model architectures ['LlamaForCausalLM'] failed to be inspected. "
        "Please check the logs for more details.",
    ),
    Signature(
        id="transformers-too-old",
        level="error",
        anchor="Transformers does not recognize this architecture",
        pattern=r"The checkpoint you are trying to load has model type `(?P<kind>[^`]+)` but "
        r"Transformers does not recognize this architecture",
        title="The installed Transformers does not know the model type {kind}",
        do=UPGRADE,
        rank=10,
        example="ValueError: The checkpoint you are trying to load has model type `qwen3` but "
        "Transformers does not recognize this architecture. This could be because of an issue with "
        "the checkpoint, or because your version of Transformers is out of date.",
    ),
    Signature(
        id="model-type-key",
        level="error",
        anchor="KeyError: '",
        pattern=r"KeyError: '(?P<kind>(?=[a-z_]*\d)[a-z][a-z0-9_]*)'$",
        title="Transformers has no model type {kind}, or config.json lacks a field of that name",
        certainty="possible",
        do=UPGRADE,
        rank=45,
        example="KeyError: 'qwen2_5_vl'",
    ),
    Signature(
        id="model-type-missing",
        level="error",
        anchor="Should have a `model_type` key in its config.json",
        pattern=r"Unrecognized model in (?P<folder>.+?)\. Should have a `model_type` key",
        title="{folder} has no config.json with a model_type",
        do=("Check the folder: config.json must be the whole model's, not an adapter's.",),
        rank=10,
        example="ValueError: Unrecognized model in /models/a. Should have a `model_type` key in "
        "its config.json.",
    ),
    Signature(
        id="remote-code",
        level="error",
        anchor="execute the configuration file in that repo",
        pattern=r"Loading (?P<repository>\S+) requires you to execute the configuration file",
        title="{repository} brings Python code of its own, which must be allowed",
        do=("Read that code, then serve with --trust-remote-code.",),
        rank=10,
        example="ValueError: Loading org/a requires you to execute the configuration file in that "
        "repo on your local machine.",
    ),
    Signature(
        id="remote-code-new",
        level="error",
        anchor=" contains custom code which must be executed",
        pattern=r"The repository (?P<repository>\S+) contains custom code which must be executed",
        title="{repository} brings Python code of its own, which must be allowed",
        do=("Read that code, then serve with --trust-remote-code.",),
        rank=10,
        example="ValueError: The repository org/a contains custom code which must be executed to "
        "correctly load the model.",
    ),
    Signature(
        id="remote-code-config",
        level="error",
        anchor="Failed to load the model config. If the model is a custom model",
        title="The model's config needs code of its own, or a newer Transformers",
        certainty="likely",
        do=("Serve with --trust-remote-code after reading the code.", *UPGRADE),
        rank=12,
        example="RuntimeError: Failed to load the model config. If the model is a custom model not "
        "yet available in the HuggingFace transformers library, consider setting "
        "`trust_remote_code=True` in LLM or using the `--trust-remote-code` flag in the CLI.",
    ),
    Signature(
        id="gated",
        level="error",
        anchor="You are trying to access a gated repo.",
        title="The model is gated: its terms must be accepted and a token given",
        do=LOGIN,
        rank=9,
        example="OSError: You are trying to access a gated repo.",
    ),
    Signature(
        id="gated-http",
        level="error",
        anchor=" Client Error",
        pattern=r"(?P<code>401|403) Client Error(?:: \w+ for url: |\. ?\(Request ID)",
        title="The Hub refused the download ({code}): not logged in, or terms not accepted",
        do=LOGIN,
        rank=11,
        example="requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: "
        "https://huggingface.co/org/a/resolve/main/config.json",
    ),
    Signature(
        id="no-such-model",
        level="error",
        anchor=" is not a local folder and is not a valid model identifier",
        pattern=r"(?P<what>\S+) is not a local folder and is not a valid model identifier",
        title="{what} is neither a folder nor a model on the Hub",
        do=(
            "Check the spelling; in a container the folder must be mounted: docker run -v.",
            "A private model needs a token: hf auth login.",
        ),
        rank=10,
        example="OSError: org/misspelt is not a local folder and is not a valid model identifier "
        "listed on 'https://huggingface.co/models'",
    ),
    Signature(
        id="no-such-model-vllm",
        level="error",
        anchor="Invalid repository ID or local directory specified: '",
        pattern=r"Invalid repository ID or local directory specified: '(?P<what>[^']*)'",
        title="{what} is neither a folder with a config.json nor a model on the Hub",
        do=("Check the spelling; in a container the folder must be mounted: docker run -v.",),
        rank=10,
        example="ValueError: Invalid repository ID or local directory specified: '/models/a'.",
    ),
    Signature(
        id="hub-unreachable",
        level="error",
        anchor="We couldn't connect to '",
        pattern=r"We couldn't connect to '(?P<host>[^']+)' to load",
        title="The Hub was not reached, and the files are not in the cache",
        do=(
            "Download first: hf download {model}",
            "Behind a proxy set HTTPS_PROXY or HF_ENDPOINT.",
        ),
        rank=10,
        example="OSError: We couldn't connect to 'https://huggingface.co' to load the files, and "
        "couldn't find them in the cached files.",
    ),
    Signature(
        id="no-weights",
        level="error",
        anchor="Cannot find any model weights with `",
        pattern=r"Cannot find any model weights with `(?P<what>[^`]*)`",
        title="{what} has no weights (*.safetensors)",
        do=("Download again: hf download {model}", "An adapter's folder alone cannot be served."),
        rank=10,
        example="RuntimeError: Cannot find any model weights with `/models/a`",
    ),
    Signature(
        id="disk-full",
        level="error",
        anchor="No space left on device",
        pattern=r"(?:[^'\"]*(?:\[Errno 28\] |NCCL WARN [^'\"]*|: ))?No space left on device",
        title="A disk (or /dev/shm) is full",
        do=("df -h ~/.cache/huggingface /tmp /dev/shm", "Set HF_HOME to a disk with more room."),
        rank=8,
        example="OSError: [Errno 28] No space left on device",
    ),
    Signature(
        id="safetensors-broken",
        level="error",
        anchor="Error while deserializing header: ",
        pattern=r"Error while deserializing header: (?P<fault>.+)",
        title="A .safetensors file is broken or only half there ({fault})",
        matters="HeaderTooLarge usually means that it is a Git LFS pointer of about 130 bytes; "
        "MetadataIncompleteBuffer that the download broke off.",
        do=(
            "ls -l {model}/*.safetensors and compare the sizes with the Hub's.",
            "Download again: hf download {model} (or: git lfs pull)",
        ),
        rank=9,
        example="safetensors_rust.SafetensorError: Error while deserializing header: "
        "MetadataIncompleteBuffer",
    ),
    Signature(
        id="tokenizer-missing",
        level="error",
        anchor="Can't load tokenizer for '",
        pattern=r"Can't load tokenizer for '(?P<what>[^']*)'",
        title="{what} has no tokenizer files",
        do=(
            "Copy tokenizer.json and tokenizer_config.json from the base model, or --tokenizer "
            "BASE",
        ),
        rank=10,
        example="OSError: Can't load tokenizer for '/models/a'. If you were trying to load it from "
        "'https://huggingface.co/models', make sure you don't have a local directory with the same "
        "name.",
    ),
    Signature(
        id="tokenizer-too-new",
        level="error",
        anchor="data did not match any variant of untagged enum",
        title="tokenizer.json was written by a newer `tokenizers` than the installed one",
        do=("pip install -U tokenizers transformers",),
        rank=10,
        example="Exception: data did not match any variant of untagged enum ModelWrapper at line "
        "757275 column 3",
    ),
    Signature(
        id="tokenizer-class",
        level="error",
        anchor=" does not exist or is not currently imported.",
        pattern=r"Tokenizer class (?P<name>\w+) does not exist or is not currently imported",
        title="The installed Transformers has no {name}",
        do=UPGRADE,
        rank=10,
        example="ValueError: Tokenizer class Qwen2Tokenizer does not exist or is not currently "
        "imported.",
    ),
    Signature(
        id="tokenizer-slow",
        level="warning",
        anchor="Using a slow tokenizer. This might cause a significant slowdown.",
        title="The tokenizer is the slow one, in Python",
        do=(
            "Add tokenizer.json to the folder: AutoTokenizer.from_pretrained(BASE).save_pretrained",
        ),
        example="Using a slow tokenizer. This might cause a significant slowdown. Consider using a "
        "fast tokenizer instead.",
    ),
    Signature(
        id="chat-template-missing",
        level="warning",
        anchor="As of transformers v4.44, default chat template is no longer",
        pattern=r"As of transformers v4\.44, default chat template is no longer allowed",
        title="The tokenizer has no chat template: chat requests fail",
        do=(
            "Use the instruct model, or serve with --chat-template FILE.jinja; the file "
            "chat_template.jinja belongs beside tokenizer_config.json.",
        ),
        rank=20,
        example="ValueError: As of transformers v4.44, default chat template is no longer allowed, "
        "so you must provide a chat template if the tokenizer does not define one.",
    ),
    Signature(
        id="torchvision-mismatch",
        level="error",
        anchor="operator torchvision::nms does not exist",
        title="torchvision was built for another PyTorch",
        do=("pip uninstall torchvision (if only text is served), or install the pair that fits.",),
        rank=10,
        example="RuntimeError: operator torchvision::nms does not exist",
    ),
)
