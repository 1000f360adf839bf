"""What stands under the fields of a model, for pages that people read.

pydantic can do this (`use_attribute_docstrings`), but does it when a class is made: our eleven classes took it 75 ms of
every start, for texts that only the documentation shows.
"""

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise

from pydantic import BaseModel


@cache
def field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the text under each field of `model`, as one line; a field without one is absent."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    if not isinstance(tree, ast.ClassDef):
        raise TypeError("not a class")
    found: dict[str, str] = {}
    for field, text in pairwise(tree.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = " ".join(words.split())
    return found
