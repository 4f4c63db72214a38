"""What every web page is made with: templates that escape, and a policy that lets nothing act.

Whatever a model, a dataset or a stranger wrote is text in a page: the templates neutralise and
escape it, and the content security policy allows scripts by their hashes alone.
"""

from base64 import b64encode
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tseval.report.text import neutral

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def environment() -> "Environment":
    """Return the environment of all templates of pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        """Neutralise what is put into the page, before it is escaped."""
        return neutral(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return Environment(
        loader=PackageLoader("tseval.report", "templates"),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def policy(scripts: Iterable[str], *, beside: bool = False) -> str:
    """Return a policy that allows these scripts, pictures that the page makes, and nothing else.

    Args:
        scripts: Texts of the scripts in the page, each allowed by its hash.
        beside: Whether script files beside the page may run too.
    """
    hashes = [b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    sources = ["'self'"] * beside + [f"'sha256-{each}'" for each in hashes]
    allowed = " ".join(sources) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed};"
        " style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def markup(text: str) -> Any:
    """Mark a text of the package's own as one that is not to be escaped."""
    from markupsafe import Markup

    return Markup(text)


@cache
def template_text(name: str) -> str:
    """Read a style or a script that ships beside the templates."""
    return (files("tseval.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def plotly_script() -> bytes:
    """Read plotly.js, which its Python package brings along; without importing that package."""
    from importlib.util import find_spec

    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_bytes()
