"""``rubric``: a judge over any chat model, with a versioned prompt and a structured reply.

Model: any. By default the one that StrongREJECT's authors use (gpt-4o-mini), which needs a key;
name another with ``rubric@backend/model``.
Format: ``name=strongreject`` (default) is StrongREJECT's published rubric, word for word;
``name=refusal`` says how far an answer refuses, in XSTest's classes; ``file=PATH`` is a YAML or
TOML file of your own, whose keys are in docs/reference/judges.md. The hash of its content is part
of the judge's identity.
Reading: A JSON object with exactly the rubric's fields, or a line for each field, exactly once.
Context: the model's; overlong input loses the middle of the answer.
Licence: the rubric's own.
Source: arXiv 2402.10260 (StrongREJECT); dsbowen/strong_reject.
Differs: The package tries a second model where the first one's reply cannot be read; here it is
no verdict. Its score is averaged there, and cut at 0.5 here.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import tseval

from ._fit import ask_fitting
from ._guards import RAW_LENGTH, ended, fill, marks, show, take_options, text_of, unparsed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._rubric import Rubric

BUILT_IN = ("strongreject", "refusal")
DEFAULT_MODEL = "openai/gpt-4o-mini"
# Whatever model it is: the marks of the common families.
_MARKS = marks(
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<bos>", "<eos>"),
    *("<start_of_turn>", "<end_of_turn>", "<request>", "</request>", "<answer>", "</answer>"),
)


class RubricJudge:
    """The judge; see the module's docstring.

    Args:
        rubric: The rubric.
        content: The file that it was read from, for the identity.
    """

    def __init__(self, rubric: Rubric, content: bytes) -> None:
        self._rubric = rubric
        self.card = tseval.JudgeCard(
            name="rubric",
            version="1",
            labels=rubric.labels,
            summary="a chat model under a rubric: StrongREJECT's, or a file of your own",
            licence=rubric.licence or "the rubric's own",
            paper=rubric.paper,
            identity={
                "rubric": rubric.name,
                "rubric_version": rubric.version,
                "content": sha256(content).hexdigest()[:16],
            },
            model=DEFAULT_MODEL,
            asked=("chat",),
        )

    def configured(self, options: Mapping[str, str]) -> RubricJudge:
        """Return the judge with options: ``name=strongreject|refusal``, or ``file=PATH``."""
        good = take_options("rubric", options, {"name": BUILT_IN, "file": ()})
        if "name" in good and "file" in good:
            raise tseval.ConfigError(
                "judge 'rubric' takes one rubric: by name, or from a file",
                hint="rubric(name=strongreject), or rubric(file=my_rubric.yaml)",
            )
        if "file" in good:
            from ._rubric import read_file

            return RubricJudge(*read_file(Path(good["file"]).expanduser()))
        return built_in(good.get("name", "strongreject"))

    async def judge(self, case: tseval.JudgeCase, model: tseval.JudgeModel) -> tseval.Verdict:
        """See ``tseval.roles.Judge``."""
        from ._rubric import parse

        rubric, shown = self._rubric, show(case, _MARKS)
        system = (tseval.Message(role="system", content=rubric.system),) if rubric.system else ()

        def build(prompt: str, answer: str) -> tseval.Question:
            content = fill(rubric.prompt, prompt, answer)
            return tseval.Question(messages=(*system, tseval.Message(role="user", content=content)))

        async def ask(question: tseval.Question) -> tseval.Rollout:
            return await model.reply(question, tokens=rubric.tokens, think=rubric.think)

        needed = rubric.tokens + rubric.think + (32 if rubric.think else 0)
        rollout, cut = await ask_fitting(
            model, build, shown.prompt, shown.answer, ask, tokens=needed
        )
        if rollout.answer is None:
            return ended(unparsed(rollout.trace[:RAW_LENGTH]), (*shown.notes, *cut, "unclosed"))
        return ended(parse(rubric, text_of(rollout)), (*shown.notes, *cut))


def built_in(name: str) -> RubricJudge:
    """Make the judge for a rubric that ships with tseval."""
    from ._rubric import read

    content = files(__package__).joinpath(f"rubric_{name}.yaml").read_bytes()
    return RubricJudge(read(content, ".yaml", f"rubric {name}"), content)


@tseval.hookimpl
def register_judges(register):
    """Register the judge, with StrongREJECT's rubric unless configured."""
    register(built_in("strongreject"))
