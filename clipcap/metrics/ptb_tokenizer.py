"""The tokenizer of the COCO caption evaluation, without Java.

Published caption metrics are computed on Penn Treebank tokens as one particular program makes them (Stanford CoreNLP
3.4.1, lower-cased, its punctuation then dropped). This is an independent description of what comes out of it: at each
place every rule is tried and the longest match wins, ties going to the rule that stands first. The rules were found
by experiment and hold for captions; the oddities are kept, since a metric that mends them is another metric.

Known to differ: a caption is read by itself here, while the original reads a whole file, where the next line's first
word can decide a full stop ("no." before "5"); some numbers in several groups; soft hyphens and combining marks inside
words that are odd for other reasons, too; spaces beyond ASCII inside addresses; rare quotation marks in a row. On real
captions with random punctuation, abbreviations, quotes, addresses and markup put in, one in some ten thousand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipcap.metrics.abbreviations import (
    ABBREVIATIONS,
    BEFORE_NUMBERS,
    CAPITALIZED,
    FILE_ENDINGS,
    NOT_ALL_CAPITALS,
    SENTENCE_STARTS,
    TITLES,
)
from clipcap.metrics.characters import LETTERS, MARKS, SYMBOLS

DROPPED = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", *".?!,:;-", "--", "..."])
"""Tokens that the evaluation drops. Brackets arrive lower-cased, so theirs never do."""

_BATCH = 65_536
"""Captions tokenized at a time: enough to share what their words have in common, and no more memory than that."""


def tokenize(captions: Sequence[str]) -> list[str]:
    """Tokenizes captions for the metrics.

    Args:
        captions: raw text, one caption each; line breaks count as spaces, half a surrogate pair as U+FFFD.

    Returns:
        For each caption its lower-cased tokens joined by single spaces, punctuation dropped; "" where nothing is left.
        A token may hold a no-break space (``3 1/2`` is one token).
    """
    result: list[str] = []
    for start in range(0, len(captions), _BATCH):
        batch = captions[start : start + _BATCH]
        try:
            array = pa.array(batch, pa.string())
        except UnicodeEncodeError:
            array = pa.array([_mended(caption) for caption in batch], pa.string())
        result += _joined(array).to_pylist()
    return result


def tokenize_array(captions: pa.Array) -> pa.Array:
    """The same for an Arrow array of strings (any number; null is an empty caption), without a Python string for each.

    Returns:
        (N) string array without nulls.
    """
    batches = [_joined(captions[start : start + _BATCH]) for start in range(0, len(captions), _BATCH)]
    return pa.concat_arrays(batches) if batches else pa.array([], pa.string())


def _mended(caption: str) -> str:
    return caption.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- from chunks to captions -----------------------------------------------------------------------------------------

# A caption is cut at its spaces. The same chunks come again and again, so the rules read each of them once; only where
# a rule could see beyond a chunk's end is the whole caption read. Tests hold that both give the same for any text.


def _joined(captions: pa.Array) -> pa.Array:
    """Tokens of each caption, joined by spaces."""
    texts = pc.utf8_trim(captions.cast(pa.string()).fill_null(""), " \t\r\n")
    lists = pc.split_pattern(texts, " ")
    encoded = lists.flatten().dictionary_encode()
    chunks, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    owners = np.arange(len(texts)).repeat(pc.list_value_length(lists).to_numpy(zero_copy_only=False))

    filled = np.array([chunk != "" for chunk in chunks], dtype=bool)[codes]  # two spaces leave an empty chunk between
    codes, owners = codes[filled], owners[filled]
    open_ = _is_open(chunks, codes, owners)
    if open_.any():  # such a caption becomes one chunk
        whole = np.unique(owners[open_])
        first = np.searchsorted(owners, whole)
        keep = ~np.isin(owners, whole)
        keep[first] = True
        codes[first] = len(chunks) + np.arange(len(whole))
        codes, owners = codes[keep], owners[keep]
        chunks += texts.take(pa.array(whole)).to_pylist()

    tokens = [(_kept_tokens if len(chunk) <= _KEPT else _chunk_tokens)(chunk) for chunk in chunks]
    spoken = np.array([token != "" for token in tokens], dtype=bool)[codes]
    codes, owners = codes[spoken], owners[spoken]
    offsets = np.searchsorted(owners, np.arange(len(texts) + 1)).astype(np.int32)
    words = pa.array(tokens, pa.string()).take(pa.array(codes))
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), words), " ")


# What the rules below see across a space: markup; more digits after digits, after a bracket or after "no."; and which
# word follows a single letter with a full stop. Other space than " " inside a chunk is left to them as well.
_BEFORE_DIGIT = re.compile(r".*(?:[0-9)]|[A-Za-z]\.)", re.DOTALL)
_BEFORE_CAPITAL = re.compile(r"(?![A-Za-z]{2,}\.\Z).*[A-Za-z]\.", re.DOTALL)


_ALONE, _SEES_DIGIT, _SEES_CAPITAL, _DIGIT, _CAPITAL = 1, 2, 4, 8, 16


def _sight(chunk: str) -> int:
    """What a rule may see beyond the chunk's end, and what of it is seen from the chunk before."""
    return (
        _ALONE * ("<" in chunk or chunk.split() != [chunk])
        | _SEES_DIGIT * bool(_BEFORE_DIGIT.fullmatch(chunk))
        | _SEES_CAPITAL * bool(_BEFORE_CAPITAL.fullmatch(chunk))
        | _DIGIT * ("0" <= chunk[:1] <= "9")
        | _CAPITAL * ("A" <= chunk[:1] <= "Z")
    )


def _is_open(chunks: list[str], codes: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """(codes) whether a rule may read on from this chunk into the next one of its caption."""
    sights = np.array([(_kept_sight if len(chunk) <= _KEPT else _sight)(chunk) for chunk in chunks], np.uint8)[codes]
    result = (sights & _ALONE) != 0
    here, next_ = sights[:-1], sights[1:]
    seen = ((here & _SEES_DIGIT != 0) & (next_ & _DIGIT != 0)) | ((here & _SEES_CAPITAL != 0) & (next_ & _CAPITAL != 0))
    result[:-1] |= seen & (owners[1:] == owners[:-1])
    return result


_PLAIN = re.compile(r"[A-Za-z]+")
_TWO_WORDS = frozenset(["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"])


def _chunk_tokens(chunk: str) -> str:
    if _PLAIN.fullmatch(chunk) and (lowered := chunk.lower()) not in _TWO_WORDS:
        return lowered
    return " ".join(token for token in _tokens(chunk) if token not in DROPPED)


_KEPT = 40
"""Longer chunks are read again each time: they seldom come twice."""
_kept_tokens = lru_cache(maxsize=_BATCH)(_chunk_tokens)
_kept_sight = lru_cache(maxsize=_BATCH)(_sight)


# --- the rules -------------------------------------------------------------------------------------------------------

_LETTER = rf"[A-Za-z{LETTERS}{MARKS}\u00ad]"
_CHAR = rf"[A-Za-z0-9{LETTERS}{MARKS}\u00ad]"
_WORD = rf"{_LETTER}{_CHAR}*"
_PART = rf"[A-Za-z0-9{LETTERS}\u00ad]+"
_JOINED = rf"{_WORD}(?:[.!?]{_WORD})*"
_CURLY = r"['\u2019\x92]"
_OPENING = r"[`\u2018\u201b\x91]"
_QUOTE = rf"(?:{_CURLY}|&apos;)"
_CLITIC = r"(?:[sdm]|ll|re|ve)"
_NUMBER = r"(?:[0-9]*(?:[.:,\u00ad\u066b\u066c][0-9]+)+|[0-9]+)"
_INITIALS = r"[A-Za-z](?:\.[A-Za-z])+\."
_HYPHEN = r"[-_\u058a\u2010\u2011]"
_ANY_QUOTE = rf"(?:{_QUOTE}|{_OPENING})"
_ELIDED = rf"[dlo]{_ANY_QUOTE}[A-Za-z0-9{LETTERS}]{{2,}}"
_COMPOUND = rf"{_PART}(?:{_HYPHEN}{_PART})*"


def _any_of(words: frozenset[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word)))


def _any_title(words: frozenset[str]) -> str:
    """The words as they begin a sentence: a capital first, the rest in any case."""
    return "|".join(rf"{word[0].upper()}(?i:{word[1:]})" for word in sorted(words))


def _glue(token: str) -> str:
    """One token of several words: its spaces become no-break spaces."""
    return re.sub(r"\s", "\u00a0", token)


def _spell_brackets(token: str) -> str:
    return token.replace("(", "-lrb-").replace(")", "-rrb-")


def _straighten(token: str) -> str:
    return re.sub("[\u2018\u201b\x91]", "`", re.sub("\u2019|\x92|&apos;", "'", token))


# A rule is a pattern and what becomes of the matched text. The token ends where group 1 ends, or with the match where
# there is no group; what the pattern matches beyond is context, and counts for which match is the longest.
_RULES: list[tuple[re.Pattern[str], Callable[[str], str] | None]] = []


def _rule(pattern: str, change: Callable[[str], str] | None = None, flags: int = re.NOFLAG) -> None:
    _RULES.append((re.compile(pattern, flags), change))


# Markup.
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&nbsp;": "."}
_ATTRIBUTE = r"[A-Za-z][A-Za-z0-9_:.-]*(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'))?"
_TAG = rf"(?:<[!?][A-Za-z-][^>]*>|</?[A-Za-z][A-Za-z0-9:.-]*(?:\s+{_ATTRIBUTE})*\s*/?>)"
_rule(_TAG, _glue)
_rule(r"&(?:amp|lt|gt|quot|apos|nbsp);", lambda token: _ENTITIES[token.lower()], re.IGNORECASE)
_rule(r"&#[0-9]+;|&[aeiouAEIOU](?:acute|grave|uml|circ);")

# Words that are two, and words with apostrophes.
_rule(r"(can)not|(gon|wan)na|(got)ta|(lem|gim)me", flags=re.IGNORECASE)
_rule(r"('t)(?:is|was)", _straighten, re.IGNORECASE)
_rule(rf"{_QUOTE}n{_QUOTE}|{_QUOTE}(?:em|till?|cause)|(?:'|&apos;)n(?=\s|$)", flags=re.IGNORECASE)
_rule(r"[\u2019\x92][nN]")
_rule(rf"{_QUOTE}(?:[2-9]0[sS]|[0-9]{{2}}(?=\s|$))")
_rule(rf"[\u2019\x92]{_CLITIC}|(?:'|&apos;){_CLITIC}(?![A-Za-z])", _straighten, re.IGNORECASE)
_rule(rf"([A-Za-z]*?[A-MO-Za-mo-z])n{_ANY_QUOTE}t", _straighten, re.IGNORECASE)
_rule(rf"n{_ANY_QUOTE}t", _straighten, re.IGNORECASE)
_rule(rf"({_JOINED}){_QUOTE}{_CLITIC}", flags=re.IGNORECASE)
_rule(rf"[dDlLjJ]{_QUOTE}|([yY]{_QUOTE}){_LETTER}")
_rule(rf"(?:{_PART}{_HYPHEN})*{_ELIDED}(?:{_HYPHEN}(?:{_ELIDED}|{_PART}))*", flags=re.IGNORECASE)
_rule(rf"[A-HJ-XZn]{_ANY_QUOTE}{_LETTER}{{2,}}")
_rule(rf"{_LETTER}+[aeiouyAEIOUY](?:{_CURLY}|{_OPENING})[aeiouA-Z]{_LETTER}*")
_rule(
    rf"(?:ol|somethin|dunkin){_CURLY}|[A-Za-z]*qu(?:{_CURLY}|{_OPENING})[aeiou][a-z]+|c{_CURLY}est", flags=re.IGNORECASE
)
_rule(r"e'er|c'mon|nor'easter|ev'ry|nat'l|s'mores|cont'd\.|l'?i'l", flags=re.IGNORECASE)

# Mail, words, compounds, numbers. An abbreviation counts as two characters longer than it is, the end of a line as one.
_rule(r"<?[A-Za-z0-9][^\s\"<>|(){}]{0,63}@(?:[^\s\"<>|().{}]+\.)*[^\s\"<>|().{}]+>?")
_LOOKING_ON = rf"(?i:{_any_of(ABBREVIATIONS)})|(?:{_any_title(CAPITALIZED)})|(?![A-Z]+\.)(?i:pte|ptys?)"
_rule(rf"((?:{_LOOKING_ON})\.)(?s:.)?\Z")
_rule(_JOINED)
_rule(rf"((?:{_LOOKING_ON})\.)(?s:..)")
_rule(_COMPOUND)
_rule(rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_INITIALS}|[A-Za-z0-9\u00ad]+))+")
_rule(r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}")
_rule(rf"[-+]?{_NUMBER}")
_rule(r"[0-9]{1,4}[- ]?[0-9]{1,4}[/\u2044][0-9]{1,4}", _glue)
_rule(r"[\u207a\u207b\u208a\u208b]?(?:[\u2070\xb9\xb2\xb3\u2074-\u2079]+|[\u2080-\u2089]+)")
_rule(r"\([0-9]{2,3}\)[ -]?[0-9]{3,4}[- ]?[0-9]{3,5}", lambda token: _spell_brackets(_glue(token)))
_rule(r"(?:\+?[0-9]{2,4}-)?[0-9]{2,4}[ -][0-9]{3,4}[ -]?[0-9]{3,5}", _glue)

# Full stops that stay.
_rule(rf"(?:{_any_of(TITLES)})\.", flags=re.IGNORECASE)
_rule(rf"(?!(?-i:[A-Z]+)\.)(?:{_any_of(NOT_ALL_CAPITALS)})\.", flags=re.IGNORECASE)
_rule(rf"((?:{_any_of(BEFORE_NUMBERS)})\.)\s?[0-9]", flags=re.IGNORECASE)
_rule(rf"[A-Za-z]\.(?!\s+(?:{_any_title(SENTENCE_STARTS)}|M[rs]\.|{_TAG})(?:\s|$))")
_rule(_INITIALS)
_rule(rf"((?:{_JOINED}|{_COMPOUND})\.)[,;:\u3001]")

# Addresses, names and signs.
_rule(r"-[lr][rcs]b-", flags=re.IGNORECASE)
_PATH = r"(?:/[^\s\"<>|()]+[^\s\"<>|.!?(){},-])?"
_rule(r"https?://[^\s\"<>|(){}]+[^\s\"<>|.!?(){},-]", flags=re.IGNORECASE)
_rule(rf"www\.(?:[^\s\"<>|.!?(){{}},]+\.)+[A-Za-z]{{2,4}}{_PATH}", flags=re.IGNORECASE)
# ",-_" is a range and holds digits and capitals, as the original does, perhaps by mistake.
_rule(rf"(?:[^\s\"`'<>|.!?(){{}},-_$]{{1,63}}\.){{1,9}}(?i:com|net|org|edu){_PATH}")
_rule(rf"{_PART}(?:\.{_PART})*\.(?:{_any_of(FILE_ENDINGS)})(?=[\s.,!?]|$)", flags=re.IGNORECASE)
_rule(r"@[A-Za-z_][A-Za-z_0-9]*")
_rule(rf"#{_LETTER}+")
_rule(r"[A-Z]+(?:(?:[&+]|&amp;)[A-Z]+)+", lambda token: token.replace("&amp;", "&"))
_rule(r"[A-Z]+\$|[cC]\+\+|[cCfF]#")
_rule(r"[<>]?[:;=][-o*']?[()DPdpO\\|@{\[\]](?![A-Za-z0-9])", _spell_brackets)
_rule(r"[-^x=~<>']_[-^x=~<>']|\([-^x=~<>']_?[-^x=~<>']\)", _spell_brackets)

# What is left: runs of a sign, then single characters.
_rule(r"(?:\\\*)+")
_rule(r"[!?]+|_+|@+|#+|\*+|<<|>>|-{5,}|''|``")
_rule(r"-{2,4}|[\x96\x97\u2013-\u2015]", lambda token: "--")
_rule(r"\.{3,4}|[\x85\u2026]", lambda token: "...")

_SINGLE = {
    "\u2018": "`", "\u201b": "`", "\u2039": "`", "\x91": "`", "\u2019": "'", "\u203a": "'", "\x92": "'",
    "\u201c": "``", "\u00ab": "``", "\x93": "``", "\u201d": "''", "\u00bb": "''", "\x94": "''", '"': "''",
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "\u00a3": "#", "\u20ac": "$", "\u00a4": "$", "\u20a0": "$", "\x80": "$", "\u00a2": "cents",
    "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
}  # fmt: skip
_rule(
    "[\u2018\u2019\u201c\u201d\u2039\u203a\u00ab\u00bb\u201b\x91-\x94`]{1,2}",
    lambda token: "".join(_SINGLE.get(character, character) for character in token),
)
_rule(rf"[!-/:-@\[-`{{-~\x80\x91-\x94\u2039\u203a\u201b{SYMBOLS}]", lambda token: _SINGLE.get(token, token))

_SPACE = re.compile(rf"[^!-~\u00ad\x80\x85\x91-\x97{LETTERS}{MARKS}{SYMBOLS}]+")


def _tokens(text: str) -> Iterator[str]:
    """Every token of a caption, punctuation included, lower-cased."""
    place = 0
    while place < len(text):
        if space := _SPACE.match(text, place):
            place = space.end()
            continue
        best, change = None, None
        for pattern, how in _RULES:
            match = pattern.match(text, place)
            if match and match.end() > (best.end() if best else place):
                best, change = match, how
        if best is None:  # a character that no rule knows disappears
            place += 1
            continue
        end = best.end(best.lastindex) if best.lastindex else best.end()
        token = text[place:end]
        place = end
        yield (change(token) if change else token).replace("\u00ad", "").lower() or "-"
