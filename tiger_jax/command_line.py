"""The command line that all verbs share: flags from a function's signature, gin files, errors.

A verb is a plain function with a documented signature. What it does is none of this file's
business.
"""

import argparse
import ast
import copy
import inspect
import json
import logging
import pathlib
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Sequence

from absl import flags

from tiger_jax import artifacts
from tiger_jax.artifacts import InputError

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_CONFIGURATION = "configuration"
_DEFINE = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_boolean,
}


class ArgumentParser(argparse.ArgumentParser):
    """For commands that are no verbs: its faults are an InputError, of one line."""

    def error(self, message: str) -> None:
        """Raises it."""
        raise InputError(f"{message}; see --help")


def run(function: Callable[..., dict], argv: Sequence[str] | None = None, examples: str = ""):
    """Runs a verb from the command line and ends the process with 2 where the input is at fault.

    Every argument of `function` annotated str, int, float or bool (or one of them or None)
    becomes a flag, described by the "Args:" section of its docstring. A flag wins over a gin
    binding, a gin binding over the signature's default. A verb with an argument `configuration`
    is given there, as gin text, all that was set, so that it can save it beside its results.

    Args:
      function: the verb; returns a JSON-able dictionary.
      argv: the command line, program name first; that of the process where None.
      examples: command lines shown by --help.
    """
    # A raw id need be no Unicode, nor a terminal know all of it.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        result, as_json = _run(function, list(sys.argv if argv is None else argv), examples)
    except InputError as error:
        # It is one line; where gin called the function, it has added where from.
        fail(str(error).partition("\n")[0])
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or error
        fail(f"{place}{reason}; see that it can be read and written, with space left")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    if as_json:
        print(json.dumps(result))


def _run(function: Callable[..., dict], argv: list[str], examples: str) -> tuple[dict, bool]:
    values = _define_flags(function)
    bindings = [arg.split("gin.", 1)[1] for arg in argv[1:] if re.match(r"--?gin\.", arg)]
    rest = [arg for arg in argv[1:] if not re.match(r"--?gin\.", arg)]
    if any(arg in ("-h", "--help", "-help", "--helpfull") for arg in rest):
        print(_help(function, values, examples))
        sys.exit(0)
    try:
        positional = values([argv[0], *rest])[1:]
    except flags.Error as error:
        raise InputError(f"{error}; --help lists the options") from error
    if positional:
        raise InputError(f"unexpected argument {positional[0]!r}; options begin with --")
    given = {name: values[name].value for name in _arguments(function) if values[name].present}
    bound, configuration = _gin_bindings(function, values.gin_file, bindings)
    arguments = {**_of_their_kinds(function, _resolved(bound, given)), **given}
    _require_arguments(function, arguments)
    if _CONFIGURATION in inspect.signature(function).parameters:
        flags_text = [f"# flag: {name} = {value!r}\n" for name, value in given.items()]
        arguments[_CONFIGURATION] = configuration + "".join(flags_text)
    artifacts.provenance()  # Of the code as it is now.
    return function(**arguments), values.json


def _arguments(function: Callable) -> dict[str, type]:
    """Arguments that can be flags: {name: str, int, float or bool}."""
    found = {}
    for name, hint in typing.get_type_hints(function).items():
        kinds = set(typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,))
        kinds.discard(type(None))
        if len(kinds) == 1 and kinds <= set(_DEFINE) and name not in ("return", _CONFIGURATION):
            found[name] = kinds.pop()
    return found


def _define_flags(function: Callable) -> flags.FlagValues:
    values = flags.FlagValues()
    for name, kind in _arguments(function).items():
        _DEFINE[kind](name, None, "", flag_values=values)
    flags.DEFINE_multi_string("gin_file", [], "", flag_values=values)
    flags.DEFINE_boolean("json", False, "", flag_values=values)
    return values


def _gin_bindings(
    function: Callable, files: list[str], bindings: list[str]
) -> tuple[dict[str, typing.Any], str]:
    """What gin binds to the function's arguments, unresolved; and all that it was told."""
    if not files and not bindings:
        return {}, ""
    gin = _import_gin()
    # It reports each place where it looks for a file in vain, before it looks in the next.
    logging.getLogger().addFilter(_is_not_of_gins_search)
    gin.clear_config()
    gin.add_config_file_search_path(str(_ROOT))
    for file in files:
        if not any((root / file).is_file() for root in (pathlib.Path(), _ROOT)):
            raise InputError(f"{file}: no such gin file, here or in {_ROOT}")
    # A file's imports make `verb.verb.NAME` known to gin; without a file this line does.
    owner = inspect.getmodule(function).__name__
    package, _, module = owner.rpartition(".")
    preamble = [
        "from __gin__ import dynamic_registration",
        f"from {package} import {module}" if package else f"import {module}",
    ]
    try:
        gin.parse_config_files_and_bindings(files, [], finalize_config=False)
        for binding in bindings:
            _require_macro(gin, binding)
            _require_value(binding)
        gin.parse_config(bindings if files else preamble + bindings)
        configuration = gin.config_str()
    except Exception as error:  # gin raises many kinds; all of them are faults of the input
        raise InputError(f"gin: {error}") from error
    try:
        return gin.get_bindings(function, resolve_references=False), configuration
    except ValueError as error:
        raise InputError(
            f"{', '.join(files)}: sets nothing of {owner}; give a file that imports it, or flags"
        ) from error


def _is_not_of_gins_search(record: logging.LogRecord) -> bool:
    return record.module != "resource_reader"


def _resolved(bound: dict[str, typing.Any], given: dict) -> dict[str, typing.Any]:
    """Values of gin's bindings; those that a flag overrides may refer to what is not set."""
    try:
        # Copying is how gin's references and macros are resolved.
        return {name: copy.deepcopy(value) for name, value in bound.items() if name not in given}
    except InputError:
        raise
    except Exception as error:
        macro = re.search(r"configurable 'macro'.* in scope '(\w+)'", str(error), re.DOTALL)
        reason = f"no file sets the macro {macro[1]}; add one that does" if macro else error
        raise InputError(f"gin: {reason}") from error


def _of_their_kinds(function: Callable, values: dict[str, typing.Any]) -> dict[str, typing.Any]:
    """The values of gin's bindings, those of flags' kinds as a flag would have them."""
    hints, kinds = typing.get_type_hints(function), _arguments(function)
    found = {}
    for name, value in values.items():
        kind = kinds.get(name)
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        takes = (int, float) if kind is float else kind
        is_none = value is None and type(None) in typing.get_args(hints.get(name))
        fits = kind is None or is_none or isinstance(value, takes)
        if not fits or (isinstance(value, bool) and kind in (int, float)):
            raise InputError(f"gin: {name} = {value!r} is no {kind.__name__}; mend it")
        found[name] = value
    return found


def _require_macro(gin, binding: str) -> None:
    """A misspelt macro would be set, never used, and never missed; gin itself checks the rest."""
    name = binding.split("=")[0].strip()
    if "." not in name:
        try:
            gin.query_parameter(f"%{name}")
        except ValueError as error:
            raise ValueError(f"no gin file sets a macro {name!r}") from error


def _require_value(binding: str) -> None:
    """What is no Python value and refers to nothing; the shell takes quotes for itself."""
    name, _, value = binding.partition("=")
    if value.strip() and "@" not in value and "%" not in value:
        try:
            ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(
                f"--gin.{name}={value}: no value; a text needs quotes within quotes: \"'text'\""
            ) from error


def _import_gin():
    import gin

    if not hasattr(gin, "parse_config_file"):
        raise InputError("gin-config is not installed; run: pip install gin-config")
    return gin


def _require_arguments(function: Callable, arguments: dict) -> None:
    """One clear line for a missing argument, instead of the TypeError of the call."""
    flag_names = _arguments(function)
    missing = [
        f"--{name}" if name in flag_names else f"{name} (by a gin file)"
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in arguments
    ]
    if missing:
        raise InputError(f"missing: {', '.join(missing)}; give it, or a --gin_file that sets it")


def _help(function: Callable, values: flags.FlagValues, examples: str) -> str:
    text = inspect.getdoc(function)
    described = _described_arguments(text)
    defaults = inspect.signature(function).parameters
    lines = [text.split("\n\nArgs:")[0], "", "Options:"]
    for name in _arguments(function):
        default = defaults[name].default
        shown = default not in (inspect.Parameter.empty, None, "")
        suffix = f" [{default}]" if shown else ""
        text = f"--{name}  {described.get(name, '')}{suffix}"
        lines.append(textwrap.fill(text, 100, initial_indent="  ", subsequent_indent=" " * 6))
    lines += [
        "  --gin_file  a gin file, e.g. a card under gin/experiment; may be repeated",
        "  --gin.NAME=VALUE  sets a gin macro or parameter, after the files",
        "  --json  prints the result as one JSON object on the last line",
        "  --help  this text",
    ]
    if examples:
        lines += ["", "Examples:", *(f"  {line}" for line in examples.strip().splitlines())]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table as text: columns as wide as their widest cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _described_arguments(docstring: str) -> dict[str, str]:
    """The "Args:" section of a docstring: {name: one line}."""
    section = re.search(r"\nArgs:\n(.*?)(\n\S|\Z)", docstring, re.DOTALL)
    found = re.findall(
        r"^  (\w+): (.*?)(?=^  \w+:|\Z)", section[1] + "\n" if section else "", re.M | re.S
    )
    return {name: " ".join(text.split()) for name, text in found}


def fail(message: str) -> typing.NoReturn:
    """Ends the process with 2 and one line on standard error."""
    # Messages of libraries may have line breaks.
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(2)
