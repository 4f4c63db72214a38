"""What a model, a dataset or a judge may write to act on a reader, and runs that are full of it.

Nothing here is dangerous: each text only shows, if it acts, that another one could.
"""

from pathlib import Path
from typing import Any

from tests.support.scripted_runs import Saying, made_run
from tseval.roles import JudgeCase
from tseval.runfolder import RunFolder
from tseval.scripts import Call
from tseval.types import Verdict

CASES = {
    "formula": "=HYPERLINK(1)",
    "formula of a command": "=cmd|' /C calc'!A0",
    "script": "<script>window.acted=1</script>",
    "closing tags": "</script></style></title></textarea></pre></td><img src=x onerror='acted=1'>",
    "comment": "<!-- <script> --!> <![CDATA[ ]]> -->",
    "attribute": "\" onload='acted=1' autofocus x=\"' style=x",
    "link": "[text](javascript:acted=1) <https://evil.example/> ![i](https://evil.example/p.png)",
    "table cell": "| cell | `code` **bold** ~~x~~ # - 1.",
    "entity": "&lt;script&gt; &amp; &#60;img&#62;",
    "directions": "\u202ereversed\u202c \u2066isolated\u2069 \u200fmark \u200bnothing \ufeff",
    "controls": "\x01\x08\x0b\x0c\x7f\x85\x9b31m",
    "terminal": "\x1b[31mred \x1b]0;title\x07 \x1b]8;;https://evil.example\x1b\\link \x1b[2J",
    "line ends": "one\rtwo\r\nthree\u2028four\u2029five\nsix",
    "inside JSON": '\\u003cscript\\u003e "}]} \\" \\',
    "templates": "{{7*7}} ${7*7} {% x %} %{x} %s {0}",
    "LaTeX": "\\input{x} $x$ % & _ # { } ~ ^ \\end{tabular} \\write18{x}",
    "YAML": "\n---\n- !!python/object/apply:os.getcwd []\nkey: &a *a",
    "workflow": "\n::error::acted\n${{ github.token }}",
    "plot": "<a href='https://evil.example'>x</a><br><b>x</b>",
}
FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "|x", "%0A=1")
EVIL = " ".join(CASES.values())
# Of these a label or a note may hold all that a person can see.
VISIBLE = " ".join(text for text in CASES.values() if text.isprintable())
# Half of a pair: what some servers send, and what no file can hold.
SURROGATE = "\ud800"
PROMPTS = 10


def evil(place: int) -> str:
    """A hostile text; each begins with another formula."""
    return FORMULAS[place % len(FORMULAS)] + EVIL


def _number(prompt: str) -> int:
    return int(prompt.rsplit("#", 1)[1])


def before(call: Call) -> str:
    """Refuse, and write what is hostile behind that."""
    return f"<think>\n{evil(1)}\n</think>\n\nI'm sorry, I can't help. {EVIL}"


def after(call: Call) -> str:
    """Answer half of the prompts in another way."""
    number = _number(call.prompt)
    return before(call) if number % 2 else f"<think>\n{evil(2)}\n</think>\n\n{evil(number)}"


def _judged(case: JudgeCase, refusal: bool) -> Verdict:
    return Verdict(
        refusal=refusal, raw=evil(3), details={evil(4): evil(5)}, notes=("truncated", evil(6))
    )


def _odd(prompt: str) -> bool:
    return _number(prompt) % 4 == 2


def judges() -> list[Saying]:
    """Two that differ on some rollouts, and quote what they saw."""
    return [
        Saying("one", lambda case: _judged(case, "sorry" in case.text)),
        Saying("other", lambda case: _judged(case, "sorry" in case.text or _odd(case.prompt))),
    ]


def hostile_run(folder: Path, script: Any, **more: Any) -> RunFolder:
    """Run hostile prompts on a hostile model under hostile judges."""
    rows = [
        {
            "id": f"{evil(n)} {n}",
            "prompt": f"{evil(n)} #{n}",
            "label": "good" if n % 3 == 0 else "bad",
            "group": evil(n % 2),
            "tag": evil(n),
        }
        for n in range(PROMPTS)
    ]
    more.setdefault("model", f"org/{EVIL}")
    return made_run(folder, rows, script, judges(), **more)


def quick(call: Call) -> str:
    """Answer as the commands' own runs do: in several ways, and once with what is no text."""
    if call.share("broken") < 0.2:
        return SURROGATE
    return evil(len(call.prompt)) if call.share() < 0.5 else f"I'm sorry, I can't. {EVIL}"
