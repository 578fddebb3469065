"""Labels as a person wants them: joined, renamed and dropped by --map, and what is odd about their names."""

from __future__ import annotations

import difflib
import re
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from arg import CHALLENGES, PreprocessConfig, map_word
from preprocessing.files import File, printable, some
from preprocessing.matching import folded, normalised
from system.errors import UserError

DROPPED = "dropped by --map"  # the reason of a training clip
SHOWN = 5  # of what is listed
UNKNOWN = "unknown"  # all words of a challenge that do not count
ANY = "*"  # in an old label: any text
# Columns of a table for --map as people call them.
OLD_NAMES = "old old_label from label class source original word category"
NEW_NAMES = "new new_label to target mapped mapped_to group"


def label_map(config: PreprocessConfig) -> dict[str, str]:
    """Old label to new one: those of --challenge, then those of --map."""
    words = CHALLENGES[config.challenge] if config.challenge else ()
    preset = {word: word for word in words} | {ANY: UNKNOWN} if words else {}
    return preset | read_map(config.map)


def read_map(entries: Sequence[tuple[str, ...]]) -> dict[str, str]:
    """Old label to new one, as --map names them: in files, (name,), and pairs, (old, new); what comes later counts.

    UserError where a file is no such table, or gives a label two new ones.
    """
    mapping: dict[str, str] = {}
    for entry in entries:
        path = Path("=".join(entry))
        if len(entry) == 2 and not path.is_file():
            mapping[entry[0]] = entry[1]
        else:
            mapping |= _read_file(path)
    return mapping


def _read_file(path: Path) -> dict[str, str]:
    """The pairs of a table of two columns, with or without a header, or of two columns that a header names."""
    from preprocessing.tables import read_table

    if not path.is_file():
        raise UserError(f"--map {path}: no such file; give a file of old and new labels, or pairs: --map OLD=NEW")
    table = read_table(path)
    names = [name.lower().replace(" ", "_") for name in table.header]
    old, new = (
        next((at for at, name in enumerate(names) if name in usual.split()), -1) for usual in (OLD_NAMES, NEW_NAMES)
    )
    rows = table.rows
    if old < 0 or new < 0:  # no header
        old, new = 0, 1
        rows = [(1, table.header), *rows]
        if len(table.header) != 2:
            raise UserError(f"--map {path}: needs two columns, old label and new label, but its first row is "
                            f"{printable(', '.join(table.header))}")  # fmt: skip
    mapping: dict[str, str] = {}
    for line, row in rows:
        if len(row) != len(table.header) or not row[old].strip():
            raise UserError(f"--map {path}, line {line}: needs an old label and a new one (empty: drop its clips), not "
                            f"{printable(','.join(row))}")  # fmt: skip
        value = row[new].strip()
        if mapping.setdefault(row[old].strip(), value) != value:
            raise UserError(f"--map {path}, line {line}: {row[old].strip()} has another new label above")
    return mapping


def map_labels(files: Sequence[File], mapping: Mapping[str, str]) -> tuple[list[File], list[str]]:
    """`files` with new labels in training and test, and what to say of them.

    A training clip whose new label is empty gets a reason; such a test clip is left out. UserError where no clip has
    any of the old labels.
    """
    trained = Counter(file.label for file in files if file.split == "train" and file.label and not file.reason)
    tested = Counter(file.label for file in files if file.split == "test" and file.label)
    new, absent = _resolve(mapping, set(trained), set(tested))
    notes = []
    if absent:
        near = [_with_nearest(label, [*trained, *tested]) for label in absent[:SHOWN]]
        says = f"no clip has the label {', '.join(near)}"
        says += f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        if not new:
            raise UserError(f"--map: {says}; the labels are {some(sorted(trained), 'label')}")
        notes.append(f"--map: {says}")
    count = trained + tested
    origin = defaultdict(list)
    for old in sorted(new):
        origin[new[old]].append(old)
    made = [
        f"{target} from {some(olds, 'label')}, {sum(count[old] for old in olds):,} clips"
        for target, olds in sorted(origin.items())
        if target and olds != [target]
    ]
    if made:
        notes.append(f"labels joined or renamed: {'; '.join(made[:SHOWN])}{_and_more(made)}")
    if gone := origin.get("", []):
        notes.append(f"labels dropped: {some(gone, 'label')}, {sum(count[old] for old in gone):,} clips")

    def mapped(file: File) -> File:
        target = new.get(file.label, file.label) if file.split in ("train", "test") else file.label
        if target or file.reason or not file.label:
            return file._replace(label=target or file.label)
        return file._replace(reason=DROPPED)

    done = [mapped(file) for file in files]
    return [file for file in done if not (file.split == "test" and file.reason == DROPPED)], notes


def _resolve(mapping: Mapping[str, str], trained: set[str], tested: set[str]) -> tuple[dict[str, str], list[str]]:
    """The new label of each label that `mapping` means, and the old ones in it that no clip has.

    A label in full goes before one with *, and of these the longest. * never means what only test clips are called: it
    may be the name of a folder.
    """
    by_form = defaultdict(list)
    for label in sorted(trained | tested):
        by_form[normalised(label.strip())].append(label)
    new, absent, patterns = dict[str, str](), list[str](), list[str]()
    for old, target in mapping.items():
        if old in trained or old in tested:
            new[old] = target
        elif ANY in old:
            patterns.append(old)
        elif same := by_form.get(normalised(old.strip())):
            new |= dict.fromkeys(same, target)
        else:
            absent.append(old)
    for pattern in sorted(patterns, key=len, reverse=True):
        fits = re.compile(".*".join(map(re.escape, pattern.split(ANY))), re.DOTALL).fullmatch
        found = [label for label in sorted(trained) if label not in new and fits(label)]
        new |= dict.fromkeys(found, mapping[pattern])
        if not found and pattern != ANY:
            absent.append(pattern)
    return new, absent


def _with_nearest(label: str, labels: Sequence[str]) -> str:
    others = {folded(other): other for other in sorted(labels)}
    near = difflib.get_close_matches(folded(label), others, 1)
    return printable(f"{label!r}" + (f" (did you mean {others[near[0]]!r}?)" if near else ""))


# ------------------------------------------------------------------------------------- what class names may hide

STRONG = ",;|"  # what parts lists, and rarely a name
MIDDLE = r"[+&/]|[\s_]and[\s_]"  # the same, rarer in lists
WEAK = " _-"  # what names have, too


class Lists(NamedTuple):
    """Classes that are lists of other classes, each with its parts."""

    plain: dict[str, list[str]]
    doubtful: dict[str, list[str]]  # they may be names of their own


def check_names(files: Sequence[File], entries: Sequence[tuple[str, ...]]) -> list[str]:
    """What to say of the names of the classes; `entries` are those of --map, which the labels have been through.

    UserError where a class is a list of others: several labels a clip.
    """
    count = Counter(file.label for file in files if file.split == "train" and not file.reason)
    every = count + Counter(file.label for file in files if file.split == "test" and file.label)
    lists, notes = find_lists(count), []
    for old, new in read_map(entries).items():
        if old == new:  # said to be a class of its own
            lists.plain.pop(old, None)
            lists.doubtful.pop(old, None)
    if lists.plain:
        several = sorted(lists.plain, key=lambda label: (-count[label], label))
        example = next(file.fname for file in files if file.label == several[0] and not file.reason)
        clips, what = sum(count[label] for label in several), "class" if len(several) == 1 else "classes"
        first = min(lists.plain[several[0]], key=lambda part: (part not in count, part))
        raise UserError(
            f"several labels a clip: {clips:,} clips of {len(several):,} {what} such as {several[0]!r} "
            f"({printable(example)}), a list of {some(lists.plain[several[0]], 'label')}; "
            f"one label a clip is supported: {_drop_option(several, count, entries)} drops such clips, "
            f"{map_option({several[0]: first}, entries)} takes one of their labels, "
            f"{map_option({several[0]: several[0]}, entries)} keeps a class that is no list"
        )
    if lists.doubtful:
        told = [
            f"{label!r} of {' and '.join(parts)} ({count[label]:,} clips)" for label, parts in lists.doubtful.items()
        ]
        notes.append("classes that may be lists of other classes, taken as classes of their own: "
                     f"{'; '.join(told[:SHOWN])}{_and_more(told)}: "
                     f"{_drop_option(list(lists.doubtful), count, entries)} drops them")  # fmt: skip
    if alike := [labels for labels in find_look_alikes(every) if any(label in count for label in labels)]:
        joined = {label: labels[0] for labels in alike for label in labels[1:]}
        told = [" and ".join(_told(label, labels, every) for label in labels) for labels in alike]
        notes.append("labels that differ only in capitals, spaces, hyphens or Unicode form: "
                     f"{'; '.join(told[:SHOWN])}{_and_more(told)}: "
                     f"{map_option(joined, entries)} joins them")  # fmt: skip
    return notes


def _and_more(items: Sequence[str]) -> str:
    return f"; and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""


def _told(label: str, labels: Sequence[str], count: Mapping[str, int]) -> str:
    """A label and its clips, in ASCII where another one looks the same."""
    same = sum(_seen(other) == _seen(label) for other in labels) > 1
    return f"{ascii(label) if same else printable(repr(label))} ({count[label]:,} clips)"


def _seen(label: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", label) if unicodedata.category(c) != "Cf")


def map_option(changes: Mapping[str, str], entries: Sequence[tuple[str, ...]], patterns: Sequence[str] = ()) -> str:
    """The option --map that does what `entries` do and then `changes`, as it is typed.

    The labels that `patterns`, such as *,*, stand for are not written out.
    """
    old = {label: changes[new] for label, new in read_map(entries).items() if new in changes}
    short = {label: new for label, new in changes.items() if not any(pattern[1] in label for pattern in patterns)}
    pairs = dict.fromkeys(patterns, "") | short | old
    return shlex.join(["--map", *map(map_word, (*entries, *pairs.items()))])


def _drop_option(lists: Sequence[str], labels: Iterable[str], entries: Sequence[tuple[str, ...]]) -> str:
    """The option --map that drops `lists` of `labels`: where they are many, by a separator that no other label has."""
    gone = set(lists)
    marks = [mark for mark in (*STRONG, *"+&/") if all(label in gone for label in labels if mark in label)]
    patterns = [f"*{mark}*" for mark in marks if len(lists) > SHOWN and any(mark in label for label in lists)]
    return map_option(dict.fromkeys(lists, ""), entries, patterns)


def find_lists(count: Mapping[str, int]) -> Lists:
    """Which classes are lists of others, by their names and their numbers of clips.

    - In brackets: a list.
    - Parted by , ; or |: a list if each part is the name of a class, or if parts recur in several lists and at
      different places. "rain, heavy" and "wind, heavy" are no lists.
    - Parted by + & / or "and": a list if each part is the name of a class.
    - Parted by spaces, _ or - ("hi hat", "air_conditioner", "twenty-one"): a list if each part is the name of a class,
      and if lists are rarer than their parts or the parts change places. If only the first holds, it is doubtful.
    """
    alone = Counter[str]()
    for label, clips in count.items():
        single = _bracketed(label)
        alone[folded((single[0] if len(single) == 1 else label).strip())] += clips

    def split(separator: str) -> dict[str, list[str]]:
        parts = {label: _parts(label, separator) for label in count if label not in plain}
        return {label: found for label, found in parts.items() if len(set(map(folded, found))) == len(found) > 1}

    plain = {label: parts for label in count if len(parts := _bracketed(label)) > 1}
    listed = split(f"[{STRONG}]")
    places = defaultdict[str, set[tuple[int, int]]](set)  # of a part: where it is in a list, and how long that is
    for parts in listed.values():
        for at, part in enumerate(parts):
            places[folded(part)].add((at, len(parts)))
    lists = Counter(folded(part) for parts in listed.values() for part in parts)
    # parts that recur at different places are lists even where none is the name of a class, as with "bark,dog,animal"
    recur = any(len(found) > 1 for found in places.values()) and 2 * lists.total() >= 3 * len(lists)
    sure = {
        label: parts
        for label, parts in listed.items()
        if all(folded(part) in alone for part in parts) or (recur and any(lists[folded(part)] > 1 for part in parts))
    }
    if sure or plain:  # the others are lists, too, where a part is known
        known = set(alone) | {folded(part) for parts in (*sure.values(), *plain.values()) for part in parts}
        plain |= {label: parts for label, parts in listed.items() if any(folded(part) in known for part in parts)}
    doubtful: dict[str, list[str]] = {}
    for mark in (MIDDLE, *WEAK):
        found = {k: v for k, v in split(mark).items() if all(folded(part) in alone for part in v)}
        order = {(at, folded(part)) for parts in found.values() for at, part in enumerate(parts)}
        mixed = len({part for _, part in order}) < len(order)
        rare = all(2 * count[label] <= min(alone[folded(part)] for part in found[label]) for label in found)
        numbers = all(part.isdecimal() for _, part in order)  # 1-2
        if mark == MIDDLE or ((mixed or rare) and not numbers):
            plain |= found
        else:
            doubtful |= found
    return Lists(plain, doubtful)


def _parts(label: str, separator: str) -> list[str]:
    return [part.strip() for part in re.split(separator, label) if part.strip()]


def _bracketed(label: str) -> list[str]:
    """The parts of a list as Python, JSON or NumPy write it; [] where the label is none."""
    text = label.strip()
    if len(text) < 2 or text[0] + text[-1] not in ("[]", "()", "{}"):
        return []
    quoted = [one or other for one, other in re.findall(r"'([^']*)'|\"([^\"]*)\"", text)]
    return quoted or (_parts(text[1:-1], "[,;|]") if text[0] == "[" else [])


def find_look_alikes(count: Mapping[str, int]) -> list[list[str]]:
    """Labels that differ only in capitals, spaces, underscores, hyphens or Unicode form, the most frequent first."""
    alike = defaultdict(list)
    for label in count:
        alike[_skeleton(label)].append(label)
    order = lambda label: (-count[label], label != normalised(label.strip()), label)  # noqa: E731
    return [sorted(labels, key=order) for look, labels in sorted(alike.items()) if look and len(labels) > 1]


def _skeleton(label: str) -> str:
    """What two such labels have in common. What parts two numbers stays, and so do the signs of -1 and A-."""
    letter, gap = r"[^\W\d_]", r"[\s_\-\u2010-\u2015]+"
    text = _seen(_seen(label).casefold()).strip(" _")
    return re.sub(rf"(?<={letter}){gap}(?=[^\W_])|(?<=[^\W_]){gap}(?={letter})", "", text)
