"""Griffe extension for the reference: Sphinx roles in docstrings become links where the site has their target."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`(~?)([\w.]+)`")
SEVERAL = re.compile(r"^ +\w+(?:, \w+)+: ", re.MULTILINE)  # entries that share a line: ``train, test: the splits``


def kept_together(text: str) -> str:
    """A docstring whose entries of several names have no blank in them, behind which a type would be looked for."""
    return SEVERAL.sub(lambda match: match.group().replace(", ", ",\N{NO-BREAK SPACE}"), text)


def linked(text: str) -> str:
    """Markdown for a docstring: each role becomes its target as code, and a link to it if there is such a place."""

    def replaced(match: re.Match[str]) -> str:
        short, target = match.groups()
        shown = target.rpartition(".")[2] if short else target
        return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'

    return ROLE.sub(replaced, text)


class Roles(griffe.Extension):
    """Rewrites every docstring once it is loaded."""

    def on_object(self, *, obj: griffe.Object, **_kwargs: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = linked(kept_together(obj.docstring.value))
