"""Where a model's files are: a folder, a GGUF file, or a repository of the hub, pinned.

The hub is asked once, with a short time limit, which commit a name means. Without an answer the
local cache is taken if the model is there. transformers alone retries for minutes, and reports a
mistyped name, a gated model and a missing network in the same words.
"""

import json
import re
from pathlib import Path
from typing import Any

from msgspec import Struct

from tseval.errors import BackendError

_ANSWER_SECONDS = 10.0
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Source(Struct, frozen=True, kw_only=True):
    """A place to load from.

    Attributes:
        place: Folder, or hub id.
        commit: Commit of the hub repository; '' for a folder.
        gguf: Name of the GGUF file in it, or ''.
        cached: Whether only the local cache of the hub may be asked.
    """

    place: str
    commit: str = ""
    gguf: str = ""
    cached: bool = False

    @property
    def folder(self) -> Path | None:
        """The folder; None for a hub repository."""
        return None if self.commit else Path(self.place)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of every ``from_pretrained`` that reads from here."""
        if not self.commit:
            return {"local_files_only": True}
        return {"revision": self.commit, "local_files_only": self.cached}

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read a small file; None if it is not there.

        Raises:
            BackendError: It is there but holds no JSON.
        """
        if self.folder is not None:
            path = self.folder / name
            if not path.is_file():
                return None
        else:
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import EntryNotFoundError

            try:
                path = Path(hf_hub_download(self.place, name, **self.arguments))
            except EntryNotFoundError:
                return None
        try:
            read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BackendError(f"{path} holds no JSON: {error}") from None
        return read


def locate(name: str, revision: str = "") -> Source:
    """Find a model by path or hub id.

    Raises:
        BackendError: There is no such folder, or the hub has or shows no such model, or cannot
            be reached and the model is not in its cache.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if revision:
            raise BackendError(f"'{name}' is a folder, which has no revision '{revision}'")
        return Source(place=str(path.resolve()))
    if path.is_file():
        if path.suffix != ".gguf":
            raise BackendError(
                f"'{name}' is a file, expected a folder, a .gguf file or a hub id",
                hint="name the folder that holds config.json",
            )
        return Source(place=str(path.resolve().parent), gguf=path.name)
    repository, _, file = name.rpartition("/") if name.endswith(".gguf") else (name, "", "")
    if not _HUB_ID.fullmatch(repository):
        raise BackendError(
            f"no model at '{name}': no such folder, and no hub id",
            hint="a hub id is written organisation/name, a path as hf/./folder or hf//folder",
        )
    source = _pin(repository, revision)
    return Source(place=repository, commit=source.commit, gguf=file, cached=source.cached)


def _pin(name: str, revision: str) -> Source:
    """Ask the hub for the commit of a revision, or else its cache."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = f"'{name}'" + (f" at revision '{revision}'" if revision else "")
    alternative = "a local copy works too: hf//path/to/folder"
    try:
        info = HfApi().model_info(name, revision=revision or None, timeout=_ANSWER_SECONDS)
        if info.gated:
            HfApi().auth_check(name)
        return Source(place=name, commit=str(info.sha))
    except GatedRepoError:
        raise BackendError(
            f"the model {wanted} is gated and this account has no access to it",
            hint=f"ask for access on https://huggingface.co/{name}, then set HF_TOKEN; "
            + alternative,
        ) from None
    except RevisionNotFoundError:
        raise BackendError(f"the hub has no {wanted}") from None
    except RepositoryNotFoundError:
        raise BackendError(
            f"the hub shows no model {wanted}",
            hint=f"check the name; a private model needs HF_TOKEN; {alternative}",
        ) from None
    except Exception as error:
        # Network errors come from a client library that changed with each major version of the
        # hub's client (requests, httpx, httpx2), so there is no class to name here.
        trouble = f"{type(error).__name__}: {error}".splitlines()[0][:160]
    try:
        kept = snapshot_download(name, revision=revision or None, local_files_only=True)
    except (LocalEntryNotFoundError, FileNotFoundError, ValueError):
        raise BackendError(
            f"the model {wanted} is not in the local cache, and the hub cannot be asked for it "
            f"({trouble})",
            hint=f"connect, or download it before ({alternative}); gated models need HF_TOKEN",
        ) from None
    return Source(place=name, commit=Path(kept).name, cached=True)
