"""How a function becomes a Kubeflow component whose parameters are derived from options."""

from __future__ import annotations

import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from kfp import dsl
from kfp.dsl.python_component import PythonComponent

from latentfaces.common.options import taking, type_and_option

IMAGE = "latentfaces:latest"  # of every component, until the pipeline is built for another one

# kfp takes a component's source along and runs it in the container: it must be a plain function.
_SOURCE = '''\
def {name}({parameters}) -> {returns}:
    """{documentation}
    """
    arguments = dict(locals())
    from {module} import {name}
    return {name}(**arguments)
'''


def component(function: Callable[..., Any], options: Iterable[inspect.Parameter]) -> PythonComponent:
    """Makes a component of a function that ends in `**options`; the component names each of them.

    No parameter has a default: the pipeline gives them all. The function's docstring ends with its arguments,
    to which the options' help texts are added. In the container, where kfp has no `dsl.component`, the
    function is imported from its module, which therefore must not import this one.

    Args:
        function: what the component runs.
        options: the parameters that `**options` stands for, as `options.parameters` returns them.
    """
    texts, documentation = [], [inspect.getdoc(function) or ""]
    for each in options:
        documentation.append(f"    {each.name}: {type_and_option(each)[1].help}")
    for each in taking(function, options).parameters.values():
        own = function.__annotations__.get(each.name)
        texts.append(f"{each.name}: {own or _name(type_and_option(each)[0])}")
    source = _SOURCE.format(
        name=function.__name__,
        module=function.__module__,
        parameters=", ".join(texts),
        returns=function.__annotations__["return"],
        documentation=textwrap.indent("\n".join(documentation), "    ").strip(),
    )
    place = f"<component {function.__name__}>"
    linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
    namespace: dict[str, Any] = {"dsl": dsl}
    exec(compile(source, place, "exec", dont_inherit=True), namespace)
    made: PythonComponent = dsl.component(
        namespace[function.__name__], base_image=IMAGE, install_kfp_package=False
    )
    return made


def _name(kind: Any) -> str:
    """The text of an annotation: an artifact is an input."""
    if isinstance(kind, type) and issubclass(kind, dsl.Artifact):
        return f"dsl.Input[dsl.{kind.__name__}]"
    return kfp_type(kind).__name__


def kfp_type(kind: Any) -> Any:
    """Returns an option's type as kfp knows it: `list` for `list[str]`."""
    return getattr(kind, "__origin__", None) or kind
