"""A run in lm-eval's own layout: one results file, and one samples file a task.

Everything was kept when the run was scored, so nothing is computed again but hashes.
"""

import json
import re
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tseval.errors import ConfigError
from tseval.loaded import public
from tseval.runfolder import RunFolder

if TYPE_CHECKING:
    from tseval.session import Session

FOLDER = "lm_eval"
# Parts of the results that hold one entry a task: those of several benchmarks go into one file.
_BY_TASK = (
    *("results", "groups", "group_subtasks", "configs", "versions", "n-shot"),
    *("higher_is_better", "n-samples"),
)


def results_file(session: "Session", benchmark: str) -> Path:
    """Name the file in a run's folder that keeps what lm-eval's scorer returned."""
    name = benchmark.partition("/")[2]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_")
    # Two paths may look alike once their slashes are gone.
    mark = "" if plain == name else f"-{sha256(name.encode()).hexdigest()[:8]}"
    return session.journal.folder.parent / FOLDER / f"{plain}{mark}.json"


class LmEvalExporter:
    """Writes ``results_<time>.json`` and ``samples_<task>_<time>.jsonl``, as lm-eval's CLI does.

    Differs: ``config.model`` is 'tseval', with the subject's identity in ``model_args``, less the
    address of a server; facts about machine and tokenizer are left out; samples hold the answer
    behind the trace (the journal holds the trace).
    """

    name = "lm-eval"
    summary = "results and sample rows of lm-eval/... benchmarks in lm-eval's own layout"

    def export(self, run: Path, out: Path) -> list[Path]:
        """Write the files into a folder named after the model; see ``tseval.roles.Exporter``.

        Raises:
            ConfigError: The run has no finished lm-eval benchmark.
        """
        folder = RunFolder.load(run)
        kept = sorted((run / FOLDER).glob("*.json"))
        if not kept:
            raise ConfigError(
                f"{run} holds no scored lm-eval benchmark",
                hint="tseval run --benchmark lm-eval/NAME makes one",
            )
        read = [json.loads(file.read_text(encoding="utf-8")) for file in kept]
        results: dict[str, Any] = {key: {} for key in _BY_TASK}
        samples: dict[str, list[dict[str, Any]]] = {}
        for each in read:
            samples.update(each.pop("samples"))
            for key in _BY_TASK:
                results[key].update(each.get(key) or {})
        if not results["groups"]:
            del results["groups"]
        hashes = {name: _task_hash(rows) for name, rows in samples.items()}
        results |= _about(folder) | {"task_hashes": hashes}
        place = out / results["model_name_sanitized"]
        place.mkdir(parents=True, exist_ok=True)
        stamp = _stamp(folder)
        files = [place / f"results_{stamp}.json"]
        files[0].write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")
        for name, rows in sorted(samples.items()):
            files.append(place / f"samples_{name}_{stamp}.jsonl")
            lines = (json.dumps(_row(row), ensure_ascii=False) + "\n" for row in rows)
            with files[-1].open("w", encoding="utf-8") as file:
                file.writelines(lines)
        return files


def _task_hash(rows: list[dict[str, Any]]) -> str:
    parts = (row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows)
    return sha256("".join(parts).encode()).hexdigest()


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Bring a sample row into the shape in which lm-eval writes it: named arguments, texts."""
    arguments = {
        f"gen_args_{n}": {f"arg_{k}": value for k, value in enumerate(arguments)}
        for n, arguments in enumerate(row["arguments"])
    }
    return row | {
        "resps": _texts(row["resps"]),
        "filtered_resps": _texts(row["filtered_resps"]),
        "arguments": arguments,
        "target": str(row["target"]),
    }


def _texts(value: Any) -> Any:
    return [_texts(each) for each in value] if isinstance(value, list) else str(value)


def _about(folder: RunFolder) -> dict[str, Any]:
    """Say whose results these are, in the fields that lm-eval has for it."""
    manifest = folder.manifest
    subject = manifest.subject
    name = subject.name if subject is not None else manifest.spec.model.name
    prompt = manifest.spec.system_prompt
    return {
        "config": {
            "model": "tseval",
            "model_args": public({"pretrained": name, **(subject.identity if subject else {})}),
            "batch_size": None,
            "batch_sizes": [],
            "device": None,
            "use_cache": None,
            "limit": manifest.spec.limit,
            "gen_kwargs": None,
            "random_seed": 0,
            "numpy_seed": 1234,
            "torch_seed": 1234,
            "fewshot_seed": 1234,
        },
        "date": _started(folder).timestamp(),
        "lm_eval_version": manifest.versions.get("lm-eval", ""),
        "transformers_version": manifest.versions.get("transformers", ""),
        "tseval_version": manifest.versions.get("tseval", ""),
        "model_source": "tseval",
        "model_name": name,
        "model_name_sanitized": re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name),
        "system_instruction": prompt or None,
        "system_instruction_sha": sha256(prompt.encode()).hexdigest() if prompt else None,
        "fewshot_as_multiturn": True,
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": str(sum(leg.seconds for leg in manifest.legs)),
    }


def _started(folder: RunFolder) -> datetime:
    return datetime.fromisoformat(folder.manifest.legs[-1].started)


def _stamp(folder: RunFolder) -> str:
    """Write the time of the run's last leg as lm-eval writes it into file names."""
    return _started(folder).replace(tzinfo=None).isoformat().replace(":", "-")
