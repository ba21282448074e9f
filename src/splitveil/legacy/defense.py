"""The grammar of the published defense strings. Anchored: a word that is not known is refused, never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import UserError, nearest, shown
from ..ranges import MOST

PARTS = {
    "gan_adv": r"gan_adv",
    "nopeek": r"nopeek",
    "dropout": r"dropout(\d*\.?\d+)?",
    "topkprune": r"topkprune(\d*\.?\d+)?",
    "SCA": r"SCA",
    "local_dp": r"local_dp",
    "pruning": r"pruning(\d+)?",
}
"""Words that each name a defense, joined by `_` in any order."""
QUALIFIERS = {
    "noise": (r"noise", "gan_adv"),
    "step": (r"step(\d+)", "gan_adv"),
    "ttitcombe": (r"ttitcombe", "nopeek"),
    "laplace": (r"laplace", "local_dp"),
    "new": (r"new", "SCA"),
}
"""Words that count beside one defense only; elsewhere the published code ignores them."""
NUMBERED = ("dropout", "topkprune", "pruning", "step")
"""Words that may end in a number; `step` must."""
EXAMPLES = (
    "None",
    "gan_adv",
    "gan_adv_step1",
    "gan_adv_step1_pruning180",
    "gan_adv_noise",
    "nopeek",
    "dropout0.2",
    "nopeek_ttitcombe",
    "topkprune0.2",
    "SCA_new",
    "local_dp",
    "local_dp_laplace",
    "pruning180",
)
ALIKE = 0.75
"""Least similarity of a misspelt word to another: below it, a hint would name another defense."""


@dataclass(frozen=True)
class DefenseOption:
    """A defense string taken apart.

    Attributes:
        parts: defense or qualifier -> the number after it, or None.
        ignored: qualifiers as they stand whose defense is not there -> that defense.
    """

    text: str
    parts: dict[str, float | None] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)

    @property
    def steps_of_code(self) -> int:
        """Return the decoder steps per batch as the published parser reads them: what follows the last `step`, or 3."""
        number = _last_number(self.text, "step")
        return 3 if number is None else number

    @property
    def epoch_of_code(self) -> int:
        """Return the epoch of the pruning as the published parser reads it: what follows the last `pruning`, or 140."""
        number = _last_number(self.text, "pruning")
        return 140 if number is None else number


def read_defense(option: str, flag: str = "AT_regularization") -> DefenseOption:
    """Return the parts of a published defense string.

    Args:
        option: as the published code has it.
        flag: name of the flag, for the message.

    Raises:
        UserError: an unknown word (with what the published code makes of the string), or one given twice.

    >>> read_defense("gan_adv_step1_pruning180").parts
    {'gan_adv': None, 'step': 1.0, 'pruning': 180.0}
    >>> read_defense("noise_nopeek").ignored
    {'noise': 'gan_adv'}
    """
    if not option:
        raise UserError(f"--{flag} is empty; expected for example {', '.join(EXAMPLES[:4])}")
    parts: dict[str, float | None] = {}
    written: dict[str, str] = {}
    for name, text, number in () if option == "None" else _words(option):
        if not name:
            raise _unknown_word(flag, option, text)
        if number is not None and number > MOST:
            raise UserError(f"--{flag} {shown(option)}: {shown(text)} has a number above {MOST}; give a smaller one")
        if name in parts:
            raise UserError(f"--{flag} {option}: '{text}' comes a second time; give each part once")
        parts[name], written[name] = number, text
    owners = {text: QUALIFIERS[name][1] for name, text in written.items() if name in QUALIFIERS}
    ignored = {text: owner for text, owner in owners.items() if owner not in parts}
    kept = {name: number for name, number in parts.items() if written[name] not in ignored}
    if ignored and not kept:
        text, owner = next(iter(ignored.items()))
        raise UserError(
            f"--{flag} {option}: '{text}' counts beside {owner} only, as in {owner}_{text}; "
            f"the published code reads {option} as no defense: write None for that"
        )
    return DefenseOption(option, kept, ignored)


def as_published(option: str) -> str:
    """Return, as a string of this grammar, what the published code makes of any string by looking for words in it.

    >>> as_published("gaussian_nopeek"), as_published("gan_adv_stp1"), as_published("laplace")
    ('nopeek', 'gan_adv', 'None')
    """
    words, last = [], ""
    for name in PARTS:
        if name not in option:
            continue
        words.append(name)
        if name in ("dropout", "topkprune"):
            rest = option.split(name)[1].split("_")[0]
            words[-1] += rest if re.fullmatch(PARTS[name], name + rest) else ""
        beside = [word for word, (_, owner) in QUALIFIERS.items() if owner == name and word in option]
        words += [word for word in beside if word not in ("step", "new")]
        for word in ("step", "pruning"):
            if (word == name or word in beside) and (number := _last_number(option, word)) is not None:
                last = f"{word}{number}"
    if last.startswith("pruning"):
        words.remove("pruning")
    return "_".join([*words, last]).removesuffix("_") or "None"


def _last_number(text: str, word: str) -> int | None:
    rest = text.rpartition(word)
    if not rest[1] or len(rest[2]) > 18 or not re.fullmatch("[0-9]+(_[0-9]+)*", rest[2]):  # as Python reads 1_000
        return None
    return int(rest[2]) if int(rest[2]) <= MOST else None


def _words(option: str) -> Iterator[tuple[str, str, float | None]]:
    """Yield name, text and number of each word; the name is empty where it is unknown."""
    patterns = PARTS | {name: pattern for name, (pattern, _) in QUALIFIERS.items()}
    rest = option
    while rest:
        for name, pattern in patterns.items():
            if match := re.match(rf"(?:{pattern})(?=_|$)", rest):
                number = match[1] if match.re.groups else None
                yield name, match[0], None if number is None else float(number)
                rest = rest[match.end() :]
                break
        else:
            text = re.match(r"[^_]*", rest)[0] or rest  # type: ignore[index]
            yield "", text, None
            rest = rest[len(text) :]
        if rest == "_":
            yield "", "_", None
        rest = rest.removeprefix("_")


def _unknown_word(flag: str, option: str, word: str) -> UserError:
    reads = as_published(option)
    near = _spelled(option, word, reads)
    hint = f"; did you mean '{near}'?" if near else ";"
    return UserError(
        f"--{flag} {option}: '{word}' is no part of a defense{hint} the published code reads the whole as "
        f"{'no defense' if reads == 'None' else reads}: write {reads} for that; "
        f"expected for example {', '.join(EXAMPLES)}"
    )


def _spelled(option: str, word: str, reads: str) -> str:
    """Return the string with one word spelled right, or nothing where that loses a defense that the code reads."""
    stem, number = re.match(r"([^\d.]*)((?:\d*\.?\d+)?)", word).groups()  # type: ignore[union-attr]
    names = {name.lower(): name for name in (*PARTS, *QUALIFIERS)}
    name = names.get(nearest(stem.lower(), names, ALIKE), "")
    if not name:
        return ""
    right = name + (number or "1" * (name == "step")) * (name in NUMBERED)
    fixed = re.sub(rf"(^|_){re.escape(word)}(?=_|$)", rf"\g<1>{right}", option, count=1)
    try:
        parts = read_defense(fixed).parts
    except UserError:
        return ""
    return fixed if read_defense(reads).parts.keys() <= parts.keys() else ""
