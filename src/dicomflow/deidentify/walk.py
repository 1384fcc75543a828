"""The one walk over an object's elements, at every depth: what the rules say is done to each value, and written down.

An instance is one object's: it knows the pseudonyms, the patient's shift, and the words that name somebody. It knows no
files; what it gives are fields again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.uid import UID

from dicomflow.deidentify import dates
from dicomflow.deidentify.content import stays_in_content
from dicomflow.deidentify.dummies import dummy_field
from dicomflow.deidentify.privates import safe_fields
from dicomflow.deidentify.pseudonyms import Pseudonyms
from dicomflow.deidentify.rules import Do, Rule, Rules
from dicomflow.deidentify.settings import Option, ProfileSettings
from dicomflow.deidentify.tables import TOP
from dicomflow.deidentify.texts import REMOVED_CODE, clean_words, public_code
from dicomflow.dicom.charsets import is_known_term
from dicomflow.dicom.encoding import Encoding
from dicomflow.dicom.fields import Field, Item, read_items
from dicomflow.dicom.uids import is_usable, strip_padding

__all__ = ["Change", "Subject", "Walk"]

_CHARACTER_SET: Final = 0x00080005
_CODE_VALUES: Final = (0x00080100, 0x00080119, 0x00080120)
_SCHEME: Final = 0x00080102
_MEANING: Final = 0x00080104
_VALUE_TYPE: Final = 0x0040A040
# What a code says of itself beside value, scheme and meaning: versions and extensions, with dates and UIDs of who made
# them. The modifiers in the same item are elements as all others.
_OF_CODES: Final = frozenset({*_CODE_VALUES, _SCHEME, 0x00080103, _MEANING, *range(0x00080105, 0x00080111), 0x00080117})
_CODE_STRING: Final = re.compile(rb"[ -~]{0,16}(?:\\[ -~]{0,16})*")
_DECIMAL: Final = re.compile(rb"[ ]*(?:[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)?[ ]*\0?")
_WORD_BREAK: Final = re.compile(rb"[\s!-/:-@\[-`{-~]+")
_VERB: Final = {
    Do.DROP: "removed",
    Do.EMPTY: "emptied",
    Do.DUMMY: "replaced",
    Do.UID: "mapped",
    Do.DATE: "shifted",
    Do.WORDS: "cleaned",
}


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to an attribute: its place, as tags from the outermost sequence on, and a word for it."""

    path: tuple[int, ...]
    done: str


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose object it is: by how many days the dates are moved (0 not at all), and the words that name somebody."""

    shift_days: int
    names: frozenset[bytes]


class Walk:
    """De-identifies the elements of one object.

    Args:
        settings: the profile.
        rules: of the profile, for the object's class.
        pseudonyms: of the recipient.
        subject: whose object it is.
        encoding: that of the values.
        is_reported: whether `changes` is kept.
    """

    def __init__(
        self,
        settings: ProfileSettings,
        rules: Rules,
        pseudonyms: Pseudonyms,
        subject: Subject,
        encoding: Encoding,
        *,
        is_reported: bool = False,
    ) -> None:
        self.changes: list[Change] | None = [] if is_reported else None
        self._rules = rules
        self._decide = rules.decide
        self._pseudonyms = pseudonyms
        self._subject = subject
        self._encoding = encoding
        self._words = frozenset(word.lower().encode() for word in settings.words)
        self._keeps_private = Option.RETAIN_SAFE_PRIVATE in settings.options
        self._options = settings.options
        self._path: list[int] = []

    def level(self, fields: Sequence[Field], parent: int = TOP) -> Item:
        """Return what becomes of the elements of one data set or item."""
        kept: list[Field] = []
        decide = self._decide
        code = self._code_of(fields)
        private: list[Field] = []
        for field in fields:
            tag = field.tag
            if tag >> 16 & 1:
                private.append(field)
                continue
            if code is not None and tag in _OF_CODES:
                continue
            rule = decide(parent, tag, field.vr)
            done = self._apply(field, rule)
            if done is not None:
                kept.append(done)
        if code is not None:
            kept.extend(code)
        if private:
            kept.extend(self._private(private))
        return tuple(kept)

    def _private(self, fields: list[Field]) -> list[Field]:
        safe = safe_fields(fields, self._encoding) if self._keeps_private else []
        if self.changes is not None:
            tags = {field.tag for field in safe}
            for field in fields:
                if field.tag not in tags:
                    self._note(field.tag, "removed")
        return safe

    def _note(self, tag: int, done: str) -> None:
        if self.changes is not None:
            self.changes.append(Change((*self._path, tag), done))

    def _apply(self, field: Field, rule: Rule) -> Field | None:
        """Do to an element what its rule says; None where nothing of it stays."""
        do = rule.do
        done = self._try(field, rule)
        if done is None and do is not rule.otherwise and do is not Do.DROP:
            do = rule.otherwise
            done = self._try(field, Rule(do, Do.DROP, rule.vr))
        if self.changes is not None:
            self._report(field, do if done is not None else Do.DROP, done)
        return done

    def _report(self, field: Field, do: Do, done: Field | None) -> None:
        if done is None or do in {Do.EMPTY, Do.DUMMY} or (done.items is None and done.value != field.value):
            self._note(field.tag, _VERB.get(do, "cleaned"))

    def _try(self, field: Field, rule: Rule) -> Field | None:  # one line for each thing that is done
        """Return the element as the rule would have it; None where its value does not do."""
        do = rule.do
        if do is Do.DROP:
            return None
        if do is Do.KEEP:
            return field if field.vr == rule.vr else field._replace(vr=rule.vr)
        if do is Do.EMPTY:
            items = () if rule.vr == "SQ" else None
            return Field(field.tag, rule.vr, 0, 0, 0, None if items is not None else b"", items)
        if do is Do.DUMMY:
            return dummy_field(field, rule.vr, self._mapped)
        if do in {Do.WALK, Do.CONTENT}:
            return self._sequence(field, is_content=do is Do.CONTENT)
        if field.value is None:
            return None
        value = self._value(do, field.tag, field.value, rule.vr)
        if value is None:
            return None
        return field if value == field.value and field.vr == rule.vr else field._replace(vr=rule.vr, value=value)

    def _value(self, do: Do, tag: int, value: bytes, vr: str) -> bytes | None:
        """Return what a value becomes; None where it may not stay."""
        if do is Do.CODED:
            if tag == _CHARACTER_SET:
                return value if all(is_known_term(term) for term in _texts(value)) else None
            is_one = _CODE_STRING.fullmatch(value.rstrip(b" \0"))
            return value if is_one and self._subject.names.isdisjoint(_WORD_BREAK.split(value.lower())) else None
        if do is Do.NUMBER:
            return value if all(map(_DECIMAL.fullmatch, value.split(b"\\"))) else None
        if do is Do.UID:
            return b"\\".join(self._mapped(uid) for uid in value.rstrip(b"\0 ").split(b"\\")) if value else value
        if do is Do.STRUCTURE:
            return value if all(is_usable(uid) or not uid for uid in _texts(value)) else None
        if do is Do.TECHNICAL:
            low = value.lower()  # a name may be a part of a word, as in the name of a sequence
            return None if any(name in low for name in self._subject.names) else value
        if do is Do.WORDS:
            return clean_words(value, self._subject.names, self._words) or None
        if do is Do.DATE:
            return dates.moved(value, vr, self._subject.shift_days)
        assert do is Do.OFFSET, do
        return dates.offset_from_utc(value)

    def _mapped(self, uid: bytes) -> bytes:
        """Return what stands for a UID; those of the standard stay (PS3.15 E.1.1)."""
        uid = uid.strip(b" \0")
        if not uid:
            return uid
        text = strip_padding(uid)
        return uid if is_usable(text) and UID(text).type else self._pseudonyms.uid(uid)

    def _sequence(self, field: Field, *, is_content: bool) -> Field | None:
        items = field.items
        encoding = self._encoding
        if items is None:
            if field.vr != "UN" or field.value is None:
                return None
            items = read_items(field.value, encoding)
            if items is None:
                return None
        self._path.append(field.tag)
        kept = []
        for item in items:
            if is_content and not stays_in_content(item, self._options, self._subject.shift_days):
                self._note(_VALUE_TYPE, "removed")
                continue
            kept.append(self.level(item, field.tag))
        self._path.pop()
        if is_content and items and not kept:
            return None
        return field._replace(vr="SQ", value=None, items=tuple(kept))

    def _code_of(self, fields: Sequence[Field]) -> list[Field] | None:
        """Return an item's code as it may stay; None where the item is no code (PS3.3 8)."""
        meaning = next((field for field in fields if field.tag == _MEANING), None)
        value = next((field for field in fields if field.tag in _CODE_VALUES), None)
        if meaning is None and value is None:
            return None
        scheme = next((field for field in fields if field.tag == _SCHEME), None)
        known = None
        if value is not None and value.value is not None:
            known = public_code(_text(value), _text(scheme) if scheme else "")
        code = known or REMOVED_CODE
        self._note(_MEANING, "cleaned" if known else "replaced")
        tag, vr = (value.tag, value.vr) if value is not None and known else (_CODE_VALUES[0], "SH")
        return [_field(tag, vr, code[0]), _field(_SCHEME, "SH", code[1]), _field(_MEANING, "LO", code[2])]


def _field(tag: int, vr: str, value: bytes) -> Field:
    return Field(tag, vr, 0, len(value), 0, value)


def _text(field: Field) -> str:
    return (field.value or b"").decode("ascii", "replace").strip(" \0")


def _texts(value: bytes) -> list[str]:
    return [part.strip(" \0") for part in value.decode("ascii", "replace").split("\\")]
