"""Options: fields of dataclasses from which a command line, its checks and a record are derived.

An option is one field, made by `option`. The parser and its -h text (`parse`), the checks (`Options`), the command that
is printed (`command_line`) and the record in a checkpoint (`to_plain`, `from_plain`) follow from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import shlex
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

from system.errors import UserError
from system.extensions import REGISTERED, load, with_options

SCRIPTS = ("preprocess.py", "train.py", "inference.py", "report.py")
Config = TypeVar("Config")
Known = TypeVar("Known", bound="Command")


def require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def option(default: Any, *flags: str, absent: Any = dataclasses.MISSING, kw_only: bool = False, **about: Any) -> Any:
    """A field of a configuration that is an option of the command line; without `flags` it is in the record alone.

    `about`, all of it optional: `help`, `metavar` and `group` (a heading, of this field and those after it) for -h;
    `nargs` as argparse has it; `repeat` where it may be given several times; `choices` (names, or a mapping from names
    to values, or a function that returns either); `parse` and its inverse `show`, between text and a value (by the
    field's type otherwise); `check`, a condition on the value and what to use instead. `absent` is the value that
    counts where a checkpoint was made before there was the field; the default otherwise.
    """
    metadata = {"flags": flags, **about} | ({} if absent is dataclasses.MISSING else {"absent": absent})
    return dataclasses.field(default=default, kw_only=kw_only, metadata=metadata)


def resolved(options: type, name: str, default: Any) -> Any:
    """The field `name` of `options` in a record derived from it, where it always has a value.

    A record takes any name as a choice: it may be that of an extension, which its reader need not have loaded.
    """
    about = options.__dataclass_fields__[name].metadata  # type: ignore[attr-defined]
    return dataclasses.field(default=default, metadata={key: about[key] for key in about if key != "choices"})


def part(kind: type, group: str = "") -> Any:
    """A field that holds further options, those of the dataclass `kind`; `group` as in `option`."""
    return dataclasses.field(default_factory=kind, metadata={"group": group})


def registered() -> Any:
    """A field with the options of what extensions have registered: {name: {option: value}}, of those that are given."""
    return dataclasses.field(default_factory=dict, metadata={"registered": True})


class Options:
    """A dataclass of options: a value that an option refuses is a UserError that names it."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, about = getattr(self, field.name), field.metadata
            if value is None or value == field.default:
                continue
            choices = _choices(about)
            if choices is not None and value not in choices.values():
                raise UserError(f"{about['flags'][-1]} {value}: use {' or '.join(choices)}")
            if "check" in about and not about["check"][0](value):
                raise UserError(f"{about['flags'][-1]} {_shown(value)}: {about['check'][1]}")


class Command(Options):
    """The options of a script."""

    script: ClassVar[str]
    purpose: ClassVar[str]  # for -h
    example: ClassVar[str] = ""  # of its options

    def as_given(self: Known, given: Sequence[str]) -> Known:
        """What a command line that gives the fields `given` asks for. UserError where they do not go together."""
        return self


def _options(kind: Any, prefix: str = "", group: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any, str]]:
    """The options of a class: the path to each, such as "optim.lr", its field, its type and its heading."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        group = field.metadata.get("group") or group
        if "registered" in field.metadata:
            for name, thing in with_options().items():
                yield from _options(thing, f"{prefix}{field.name}.{name}.", f"extension {name}")
        elif dataclasses.is_dataclass(hints[field.name]):
            yield from _options(hints[field.name], f"{prefix}{field.name}.", group)
        elif field.metadata.get("flags"):
            yield prefix + field.name, field, hints[field.name], group


def _choices(about: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The names that an option takes, with their values; None where it takes anything."""
    choices = about.get("choices")
    if callable(choices):
        choices = choices()
    if choices is None or isinstance(choices, Mapping):
        return choices
    if len(set(choices)) < len(choices):
        raise UserError(f"{max(choices, key=choices.count)}: is built in; give the extension's another name")
    return dict(zip(choices, choices, strict=True))


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors fit one line and point to -h."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} -h lists the options)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
            close = difflib.get_close_matches(name, self._option_string_actions, 1)
            asked = f"did you mean {close[0]}? " if close else ""
            raise UserError(f"unrecognized argument {name} ({asked}{self.prog} -h lists the options)")
        return found


def _parser(kind: type[Command]) -> _Parser:
    parser = _Parser(
        prog=kind.script,
        description=kind.purpose,
        epilog=" ".join(["example: python", kind.script, kind.example]).strip(),
        formatter_class=partial(argparse.HelpFormatter, max_help_position=30, width=110),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {"": parser}
    for name, field, hint, group in _options(kind):
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        about, default, help_text = field.metadata, field.default, field.metadata.get("help", "").replace("%", "%%")
        settings: dict[str, Any] = {"dest": name, "help": help_text}
        choices = _choices(about)
        if isinstance(default, bool) and choices is None:
            settings["action"] = "store_false" if default else "store_true"
        else:
            settings["type"] = about.get("parse") or _word_type(hint)
            settings["metavar"] = about.get("metavar", field.name.upper())
            if choices is not None:
                settings["type"] = partial(_chosen, about["flags"][-1], choices)
                settings["metavar"] = "{" + ",".join(choices) + "}"
            settings |= {"nargs": about["nargs"]} if "nargs" in about else {}
            settings |= {"action": "append"} if about.get("repeat") else {}
            if default not in (None, "", ()) and default is not False and "default" not in help_text:
                settings["help"] = f"{help_text} (default: {_in_help(field, default)})".strip()
        try:
            groups[group].add_argument(*about["flags"], **settings)
        except argparse.ArgumentError:
            raise UserError(f"{group}: {' or '.join(about['flags'])} is another option; use a new name") from None
    return parser


def _word_type(hint: Any) -> Any:
    """The type of a single word of an option that is a `hint`: int of `tuple[int, ...] | None`."""
    inside = [part for part in typing.get_args(hint) if part is not types.NoneType]
    return _word_type(inside[0]) if inside else hint


def _chosen(flag: str, choices: Mapping[str, Any], text: str) -> Any:
    if text not in choices:
        raise UserError(f"{flag} {text}: use {' or '.join(choices)}")
    return choices[text]


def parse(kind: type[Known], argv: Sequence[str] | None = None) -> Known:
    """The configuration that a command line asks for. UserError, in one line, where it makes no sense."""
    if any(field.name == "extensions" for field in dataclasses.fields(kind)):  # type: ignore[arg-type]
        first = _Parser(kind.script, add_help=False, allow_abbrev=False)
        first.add_argument("--extension", action="append", default=[], type=Path)
        # first, since they add options; `parse_args` then refuses what is still unknown
        load(first.parse_known_args(argv)[0].extension)
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(_parser(kind).parse_args(argv)).items()
    }
    return _built(kind, given).as_given(tuple(given))


def _built(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A configuration from values under dotted names."""
    hints = typing.get_type_hints(kind)
    arguments = {name: value for name, value in values.items() if "." not in name}
    for name in {name.partition(".")[0] for name in values if "." in name}:
        inner = {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}
        arguments[name] = _built(hints[name], inner) if dataclasses.is_dataclass(hints[name]) else _nested(inner)
    return kind(**arguments)


def _nested(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        name, _, field = key.partition(".")
        result.setdefault(name, {})[field] = value
    return result


def _in_help(field: dataclasses.Field[Any], value: Any) -> str:
    return _shown(value) if isinstance(value, float) else _text(field, value)


def _text(field: dataclasses.Field[Any], value: Any) -> str:
    """A value as its option takes it."""
    if "show" in field.metadata:
        return str(field.metadata["show"](value))
    choices = _choices(field.metadata) or {}
    plain = repr(value) if isinstance(value, float) else str(value)
    return next((name for name, meant in choices.items() if meant == value), plain)


def command_line(config: Command, **changes: Any) -> str:
    """The command for `config` with `changes`, quoted for a shell: the options that differ from the defaults.

    The script is named as the one that runs was called, or by its name alone where none runs, as in a notebook.
    """
    config = dataclasses.replace(config, **changes)  # type: ignore[type-var]
    words = ["python", _as_called(config.script)]
    for name, field, _, _ in _options(type(config)):
        value: Any = config
        for step in name.split("."):
            value = value.get(step) if isinstance(value, dict) else getattr(value, step, None)
        flags, repeat = field.metadata["flags"], field.metadata.get("repeat")
        if value == field.default or value is None:
            continue
        texts = [_text(field, item) for item in (value if repeat or "nargs" in field.metadata else [value])]
        if isinstance(value, bool) and not _choices(field.metadata):
            words.append(flags[0])
        elif repeat:
            words += [word for text in texts for word in (flags[0], text)]
        else:
            words += [f"{flags[-1]}={texts[0]}"] if texts[0].startswith("-") else [flags[0], *texts]
    return shlex.join(words)


def _as_called(script: str) -> str:
    called = Path(sys.argv[0])
    return str(called.with_name(script)) if called.name in SCRIPTS else script


def to_plain(config: Any) -> dict[str, Any]:
    """A dataclass as nested dicts and lists of plain values: what a checkpoint may hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result


def from_plain(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """The dataclass that `to_plain` wrote, now or before some of its fields existed.

    A field that is absent has its `absent` value (see `option`) or else its default. ValueError where it has neither,
    or on a key that no field has.
    """
    hints, arguments = typing.get_type_hints(kind), {}
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    wrong = set(values) - set(fields)
    for name, field in fields.items():
        if name in values:
            arguments[name] = _revived(hints[name], values[name])
        elif "absent" in field.metadata:
            arguments[name] = field.metadata["absent"]
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            wrong.add(name)
    if wrong:
        raise ValueError(f"{kind.__name__}: missing or unknown keys {sorted(wrong)}")
    return kind(**arguments)


def _revived(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_plain(hint, value)  # type: ignore[arg-type]
    if isinstance(value, list):
        value = tuple(value)
    if _word_type(hint) is Path and value is not None:
        return tuple(map(Path, value)) if isinstance(value, tuple) else Path(value)
    return value


def made(kind: str, name: str, values: Mapping[str, Any] | None = None) -> Any:
    """What an extension has registered under a name: a class's object with the plain option `values`, or a function.

    UserError where its file has not been loaded.
    """
    if name not in REGISTERED[kind]:
        raise UserError(f"{kind} {name}: not known here; give the file that defines it with --extension FILE")
    thing = REGISTERED[kind][name]
    if dataclasses.is_dataclass(thing):
        return from_plain(thing, values or {})  # type: ignore[arg-type]
    return thing() if isinstance(thing, type) else thing


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result
