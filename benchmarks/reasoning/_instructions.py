"""Check answers to IFEval: 25 kinds of instructions that a program can verify.

The verification is lm-eval's, used as a library; nothing of it is written again here. An answer is
right if it follows every instruction of its prompt as it stands (prompt level, strict). Beside that
the paper's other three rates are counted: whether it does after loosening (prompt level, loose:
without bold marks, first or last line, in any combination), and how many instructions it follows,
strictly and loosely (instruction level). An empty answer follows none.

lm-eval's modules need langdetect, immutabledict and nltk, which tseval does not depend on; two
kinds (numbers of sentences, capital words) also need nltk's punkt_tab data. What is missing is an
error that names it, never a wrong answer; nothing is downloaded.

Source: IFEval (arXiv:2311.07911), google-research/instruction_following_eval as carried by
    lm-eval 0.4.13 (Apache-2.0), version 4.0 of its task.
Differs: langdetect and the defaults that lm-eval draws for parameters which a row lacks are
    seeded, so that a check of the same answer always gives the same result.
"""

from __future__ import annotations

from typing import Any

import tseval

VERSION = "2"
# A version of these can change what is followed.
LIBRARIES = ("lm_eval", "langdetect", "nltk")

_PACKAGES = ("langdetect", "immutabledict", "nltk")
# Kinds whose check cuts the answer into sentences or words with nltk's data.
_TOKENIZED = ("length_constraints:number_sentences", "change_case:capital_word_frequency")
_LOOSE = {True: "loosely", False: "not"}
_FIELDS = ("prompt", "instruction_id_list", "kwargs")


def check(reference: str, answer: str) -> dict[str, Any]:
    """Say whether an answer follows its instructions.

    Args:
        reference: The row as JSON: 'prompt', 'instruction_id_list', and 'kwargs' with the
            parameters of each instruction, in its order.
        answer: The model's answer without its thinking trace.

    Returns:
        'correct' (prompt level, strict), 'extracted' (how many instructions are followed, in
        words; None for an empty answer), 'parts' (see :func:`parts`: how many are followed, of
        how many), and in 'details' for each instruction, in the order of the row, whether it is
        followed 'strictly', 'loosely' or 'not'.

    Raises:
        tseval.DataError: The reference is no row of IFEval, or names an unknown instruction.
        tseval.CapabilityMissing: A package or nltk's data is missing.
    """
    row = _row(reference)
    if lacking := missing(row["instruction_id_list"]):
        raise tseval.CapabilityMissing(
            f"IFEval cannot be checked without {lacking}",
            hint="pip install 'lm-eval[ifeval]', then python -m nltk.downloader punkt_tab",
        )
    strict, loose = _followed(row, answer)
    total = len(strict)
    told = f"strict {sum(strict)}/{total}, loose {sum(loose)}/{total}"
    kinds = row["instruction_id_list"]
    return {
        "correct": all(strict),
        "extracted": told if answer.strip() else None,
        "parts": {
            "prompt_level_loose": (int(all(loose)), 1),
            "instruction_level_strict": (sum(strict), total),
            "instruction_level_loose": (sum(loose), total),
        },
        "details": {
            f"{number + 1}. {kind}": "strictly" if strict[number] else _LOOSE[loose[number]]
            for number, kind in enumerate(kinds)
        },
    }


def parts(reference: str) -> dict[str, int]:
    """Say what is counted beside prompts that are followed strictly, and how many there are."""
    total = len(_row(reference)["instruction_id_list"])
    return {
        "prompt_level_loose": 1,
        "instruction_level_strict": total,
        "instruction_level_loose": total,
    }


def classes(extracted: list[str | None], reference: str) -> list[int]:
    """Number the answers: free texts don't agree, so each is a class of its own; -1 if empty."""
    return [-1 if one is None else number for number, one in enumerate(extracted)]


def requires(references: list[str]) -> str:
    """Say what has to be installed to check rows, or ''."""
    absent = missing([name for one in references for name in _row(one)["instruction_id_list"]])
    return f"needs {absent}: pip install 'tseval[ifeval]'" if absent else ""


def missing(instructions: list[str]) -> str:
    """Name what is not installed and the given instructions need; '' if nothing is missing."""
    from importlib.util import find_spec

    absent = [name for name in _PACKAGES if find_spec(name) is None]
    if not absent and set(instructions) & set(_TOKENIZED):
        import nltk

        try:
            nltk.data.find("tokenizers/punkt_tab")
        except LookupError:
            absent = ["nltk's punkt_tab data"]
    return ", ".join(absent)


def _row(reference: str) -> dict[str, Any]:
    import json

    try:
        row = json.loads(reference)
        fields = [row[name] for name in _FIELDS]
    except (ValueError, KeyError, TypeError):
        raise tseval.DataError(
            f"no row of IFEval: {reference[:80]!r}, expected JSON with {', '.join(_FIELDS)}"
        ) from None
    if not fields[1] or len(fields[1]) != len(fields[2]):
        raise tseval.DataError(
            f"a row of IFEval has {len(fields[1])} instructions and {len(fields[2])} sets of "
            "parameters, expected as many, at least one"
        )
    return dict(zip(_FIELDS, fields, strict=True))


def _followed(row: dict[str, Any], answer: str) -> tuple[list[bool], list[bool]]:
    """Return which instructions are followed, strictly and loosely."""
    import random

    library = _library()
    unknown = set(row["instruction_id_list"]) - set(library.instructions_registry.INSTRUCTION_DICT)
    if unknown:
        raise tseval.DataError(f"IFEval has no instruction {', '.join(sorted(unknown))}")
    # The parameters of a row are a union of all kinds', null where they don't apply.
    given = [{name: one for name, one in each.items() if one is not None} for each in row["kwargs"]]
    example = library.InputExample(
        key=0, instruction_id_list=row["instruction_id_list"], prompt=row["prompt"], kwargs=given
    )
    results = []
    for run in (
        library.test_instruction_following_strict,
        library.test_instruction_following_loose,
    ):
        random.seed(0)
        results.append([bool(one) for one in run(example, answer).follow_instruction_list])
    return results[0], results[1]


def _library() -> Any:
    """Import lm-eval's module without its download."""
    import os

    import langdetect

    langdetect.DetectorFactory.seed = 0
    before = os.environ.get("LOCAL_RANK")
    # Only the first of several processes fetches data; every other one takes what is there.
    os.environ["LOCAL_RANK"] = "1"
    try:
        from lm_eval.tasks.ifeval import utils
    finally:
        if before is None:
            del os.environ["LOCAL_RANK"]
        else:
            os.environ["LOCAL_RANK"] = before
    return utils
