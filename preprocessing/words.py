"""The words of files' names: which tell speakers or recordings, wherever they stand (--group names)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from preprocessing.files import File, recording_of
from preprocessing.matching import folded
from system.errors import UserError

MOST = 0.95  # of the names: all but strays
FIELD = re.compile(r"[^\W_]+")
NUMBERED = re.compile(r"(\D*)(\d+)")


def listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words before a number, by what the number then is.
SPEAKERS = listed(
    "speaker spk spkr sp subject subj sub sid uid participant person user actor talker singer voice client patient pat "
    "pid recording rec session ses source src id bird animal device station site"
)
COUNTERS = listed(
    "take rep repetition trial utt utterance clip sample part seg segment chunk slice no nr num number index version v "
    "copy track t n r x audio file wav sound aug fold split set train test val batch"
)
# What two kinds of clips may be called that are no two speakers.
CONDITIONS = listed(
    "clean noisy noise quiet loud male female man woman m f normal slow fast left right l r mono stereo near far "
    "original aug augmented pitch stretch shift speed reverb echo high low hi lo md xx real fake day night train test "
    "val valid dev"
)
MONTHS = listed("jan feb mar apr may jun jul aug sep oct nov dec")
# What is said in many data sets: labels rather than names of people.
WORDS = listed(
    "zero one two three four five six seven eight nine ten yes no up down left right on off stop go backward forward "
    "follow learn visual bed bird cat dog happy house marvin sheila tree wow angry anger sad sadness neutral fear "
    "disgust surprise calm happiness boredom open close start play pause rain wind siren silence unknown noise speech "
    "music"
)


class WordGroups:
    """The groups that the words of names tell, whatever their place and case (--group names).

    Of a name's words (folded, split at what is no letter and no digit) those count that are no number, no letter and no
    name of a class, that not nearly all names have, and that another name has, too. Numbers after a word are takes
    (anna03), but after a code or speaker they are a part of it (p225, speaker3).
    """

    def __init__(self, names: Sequence[str], labels: Sequence[str]) -> None:
        words = [_words(name, label) for name, label in zip(names, labels, strict=True)]
        self._dropped = {piece for label in set(labels) for piece in _pieces(label)} | COUNTERS | MONTHS
        self._dropped |= _common(words, labels)
        glued = _are_glued(words, [folded(label) for label in labels])
        kept = [self._kept(own, label) for own, label in zip(words, glued, strict=True)]
        count = Counter(word for own in kept for word in own)
        self._known = frozenset(word for word, names_with in count.items() if names_with > 1)
        partners = defaultdict[str, set[str]](set)  # words that stand beside it in some name
        for own in {tuple(own) for own in kept}:
            for word in own:
                partners[word] |= set(own) & self._known
        self._partners = {word: len(others) for word, others in partners.items()}
        self.several = sum(len(self._telling(own)) > 1 for own in kept) / len(kept)  # share of the names
        self.groups = [self._chosen(own) for own in kept]  # of the names

    def group(self, name: str) -> str:
        """The group of another name, whose label is not known; '' where it tells none."""
        return self._chosen(self._kept(_words(name, ""), ""))

    def _chosen(self, words: Sequence[str]) -> str:
        """The group that a name with these words is of: of several words those that stand with the fewest others."""
        telling = self._telling(words)
        least = min((self._partners[word] for word in telling), default=0)
        return " ".join(sorted(word for word in telling if self._partners[word] == least))

    def _telling(self, words: Sequence[str]) -> frozenset[str]:
        """Those of a name's words that may tell its group."""
        known = self._known.intersection(words)
        return known - CONDITIONS or known

    def _kept(self, words: Sequence[str], glued: str) -> list[str]:
        kept = []
        for word in (_cut(word, glued) for word in words):
            bare = word.strip("0123456789")
            if len(word) < 2 or not bare or word in self._dropped or bare in self._dropped:
                continue
            kept.append(bare if len(bare) > 2 and bare not in SPEAKERS and bare.isalpha() else word)
        return list(dict.fromkeys(kept))


def _are_glued(words: Sequence[Sequence[str]], labels: Sequence[str]) -> list[str]:
    """The label that is an end of a word of each name (annaFIVE3); all are '' if few names that lack it have it so."""
    inside = [label if label not in own else "" for own, label in zip(words, labels, strict=True)]
    found = sum(any(_cut(word, label) != word for word in own) for own, label in zip(words, inside, strict=True))
    return inside if 2 * found > sum(map(bool, inside)) else [""] * len(words)


def _cut(word: str, label: str) -> str:
    """`word` without `label` at one of its ends, and without a number after it."""
    if not label or label not in word:
        return word
    start = word.rstrip("0123456789").removesuffix(label)
    return start if word.startswith(start + label) else word.removeprefix(label)


def _common(words: Sequence[Sequence[str]], labels: Sequence[str]) -> set[str]:
    """The words that nearly all names have, or all of one label and no others: another word for it."""
    count = Counter(word for own in words for word in set(own))
    size = Counter(labels)
    pairs = Counter((word, label) for own, label in zip(words, labels, strict=True) for word in set(own))
    aliases = {word for (word, label), clips in pairs.items()
               if len(size) > 1 and clips >= MOST * count[word] and clips >= 0.8 * size[label]}  # fmt: skip
    return {word for word, clips in count.items() if clips >= 0.98 * len(words)} | aliases


def _words(name: str, label: str) -> list[str]:
    """The words of a name and its folders, without that of its label; speaker 1 and speaker a are one word."""
    path = "/".join(part for part in recording_of(name).rpartition(".")[0].split("/") if part != label)
    words: list[str] = []
    for word in FIELD.findall(folded(path)):
        if words and words[-1] in SPEAKERS and (word.isdecimal() or len(word) == 1):
            words[-1] += word
        else:
            words.append(word)
    return words


def _pieces(label: str) -> set[str]:
    pieces = FIELD.findall(folded(label))
    return {*pieces, "".join(pieces)}


def group_by_words(files: Sequence[File]) -> list[File]:
    """`files` with the groups that their names tell (--group names). UserError where they tell none."""
    train = [file for file in files if file.split == "train" and not file.reason]
    if not train:
        return list(files)
    words = WordGroups([file.fname for file in train], [file.label for file in train])
    group = dict(zip(map(id, train), words.groups, strict=True))
    grouped = [
        file._replace(group=group[id(file)] if id(file) in group else words.group(file.fname))
        if file.split in ("train", "test")
        else file
        for file in files
    ]
    if len({file.group for file in grouped if file.split == "train"} - {""}) < 2:
        raise UserError(
            "--group names: the words of the names tell no two groups; use --group-pattern, or --group none"
        )
    return grouped
