"""What is done to an attribute: the Basic Profile's code, the options in force, and the type that it has in the IOD.

`Rules.decide` answers once for each tag, parent and VR, and remembers: the walk asks for every element of every file.
What stands in no row of the table is decided by VR. Knows no values.
"""

from enum import Enum, auto
from functools import lru_cache
from typing import Final, NamedTuple

from dicomflow.deidentify import options, tables
from dicomflow.deidentify.settings import Option, ProfileSettings
from dicomflow.dicom.fields import vr_of

__all__ = ["Do", "Rule", "Rules", "rules_for"]


class Do(Enum):
    """What is done to an element's value."""

    DROP = auto()
    EMPTY = auto()
    DUMMY = auto()
    KEEP = auto()
    UID = auto()  # mapped
    STRUCTURE = auto()  # a UID that names something of the standard's: kept if it is a UID
    DATE = auto()  # retained or shifted, else `otherwise`
    OFFSET = auto()  # Timezone Offset From UTC
    TECHNICAL = auto()  # text that devices write: kept unless it has a word of the patient's, else `otherwise`
    WORDS = auto()  # cleaned, else `otherwise`
    CODED = auto()  # a CS or AS: kept if it may be one
    NUMBER = auto()  # a DS or IS: kept if it is one
    WALK = auto()  # a sequence that stays
    CONTENT = auto()  # a sequence of content items


class Rule(NamedTuple):
    """What is done to an element, what where that does not do, and the VR that it is written with."""

    do: Do
    otherwise: Do
    vr: str


_DROP: Final = Rule(Do.DROP, Do.DROP, "UN")
# Objects that name none of a study's things but a class, an encoding, a scheme (PS3.15 E.1.1, and 1.6 of the design).
_STRUCTURE: Final = frozenset(
    {0x00080016, 0x0008001A, 0x0008001B, 0x00080062, 0x00081150, 0x0008010C, 0x0008010D, 0x00080117, 0x00080118}
    | {0x04000510, 0x00041510, 0x00041512, 0x04000010}
)
# Whatever the table says: old values in clear, encrypted or signed; pictures of pictures; an ICC profile's text; birth
# and death in another calendar; lengths and padding.
_ALWAYS_DROPPED: Final = frozenset(
    {0x00080001, 0x00100033, 0x00100034, 0x00282000, 0x00420011, 0x00880200, 0x04000500, 0x04000561}
    | {0xFFFAFFFA, 0xFFFCFFFC, 0x4FFE0001}
)
_DROPPED_GROUPS: Final = frozenset({0x0000, 0x0002, 0x0004, 0x4FFE, 0xFFFA, 0xFFFC})
_CHARACTER_SET: Final = 0x00080005
_OFFSET: Final = 0x00080201
_CONTENT_SEQUENCES: Final = frozenset({0x0040A730, 0x00400555, 0x00400610, 0x0040B020})
_CONTENT: Final = 0x0040A730
_TEXT_VALUE: Final = 0x0040A160
# Graphic Annotation Sequence, of which a dummy would be a drawing; the name of an ethics committee, which may not stand
# without the number of its approval, which goes.
_DROPPED_FOR_ANOTHER: Final = frozenset({0x00700001, 0x00120081})
_PIXEL_GROUP: Final = 0x7FE0
_PIXELS: Final = frozenset({0x7FE00001, 0x7FE00002, 0x7FE00003, 0x7FE00008, 0x7FE00009, 0x7FE00010})
_WAVEFORM_BYTES: Final = frozenset({0x54001010, 0x54000110, 0x54000112, 0x5400100A})
_DATES: Final = frozenset({"DA", "TM", "DT"})
_TEXTS: Final = frozenset({"LO", "SH", "ST", "LT", "UT", "UC", "UR"})
_SPOKEN: Final = _TEXTS | {"PN", "CS", "AE", "AS"}
_NUMBERS: Final = frozenset({"DS", "IS"})
_BINARY: Final = frozenset("AT FL FD SL SS UL US OF OD OL OV OW SV UV".split())  # noqa: SIM905  # as the standard has it
# Text that a device writes and nobody types: makers, versions, names of sequences, kernels, filters, coils, methods.
_TECHNICAL: Final = frozenset(
    int(tag, 16)
    for tag in """
    00080070 00081090 00120063 00180024 00180031 00180085 00181016 00181018 00181019 00181020 00181040 00181061 00181064
    00181070 00181085 00181160 00181161 00181180 001811B0 001811B1 00181210 00181250 00181251 00181260 00181261 00185010
    00185020 00187008 0018702A 0018702B 00187040 00187041 00189005 00189041 00189050 00189320 00189524 00189525 00189526
    00281054 00281055 00283003 00283004 00404073 00540018 00541101 00541103 00541104 00541105 00620009 00660031 00660036
    300A0226
    """.split()  # noqa: SIM905  # reads as the list
)
# Which code is meant by a code with alternatives, by the attribute's type in the IOD (PS3.15 Table E.1-1a).
_BY_TYPE: Final = {
    "D": {"1": "D", "2": "D", "3": "D"},
    "Z": {"1": "D", "2": "Z", "3": "Z"},
    "Z/D": {"1": "D", "2": "Z", "3": "Z"},
    "X/Z": {"1": "D", "2": "Z", "3": "X"},
    "X/D": {"1": "D", "2": "Z", "3": "X"},
    "X/Z/D": {"1": "D", "2": "Z", "3": "X"},
    "X/Z/U*": {"1": "W", "2": "W", "3": "X"},
}
_DOES: Final = {"X": Do.DROP, "Z": Do.EMPTY, "D": Do.DUMMY, "U": Do.UID, "W": Do.WALK}


@lru_cache(maxsize=1024)
def rules_for(settings: ProfileSettings, sop_class_uid: str) -> "Rules":
    """Return the rules of a profile for a class, those that were made before if there are any."""
    return Rules(settings.options, sop_class_uid)


class Rules:
    """Decides by options for the objects of one SOP class."""

    def __init__(self, chosen: frozenset[Option], sop_class_uid: str) -> None:
        self._options = chosen
        self._types = tables.types_of(sop_class_uid)
        self._actions = tables.actions()
        self._dates_stay = bool(chosen & {Option.RETAIN_FULL_DATES, Option.SHIFT_DATES})
        self._retained = frozenset[int]().union(*(options.RETAINED.get(option, frozenset()) for option in chosen))
        self._cleaned = frozenset[int]().union(*(options.CLEANED.get(option, frozenset()) for option in chosen))
        self._known: dict[tuple[int, int, str], Rule] = {}

    def decide(self, parent: int, tag: int, vr: str) -> Rule:
        """Return what is done to an element of an even group, given the sequence that it stands in and its VR."""
        key = parent, tag, vr
        rule = self._known.get(key)
        if rule is None:
            rule = self._known[key] = self._decide(parent, tag, vr)
        return rule

    def _decide(self, parent: int, tag: int, stated: str) -> Rule:
        group = tag >> 16
        is_drawn = 0x5000 <= group <= 0x50FF or 0x6000 <= group <= 0x60FF
        if tag in _ALWAYS_DROPPED or group in _DROPPED_GROUPS or is_drawn or not tag & 0xFFFF:
            return _DROP
        vr = vr_of(tag)
        vr = stated if " or " in vr or (vr == "UN" and tag in options.OTHER_DATES) else vr
        if tag == _CHARACTER_SET:
            return Rule(Do.CODED, Do.DROP, "CS")
        code = self._actions.get(tag)
        if code is None:
            return self._by_vr(parent, tag, vr, stated)
        base = self._base(parent, tag, vr, code)
        if (chosen := self._by_option(parent, tag, vr, base)) is not None:
            return chosen
        return Rule(base, base, vr)

    def _by_option(self, parent: int, tag: int, vr: str, base: Do) -> Rule | None:
        """Return what an option says in the place of the Basic Profile's code."""
        if self._dates_stay:
            if tag == _OFFSET:
                return Rule(Do.OFFSET, base, vr)
            if (vr in _DATES or tag in options.OTHER_DATES) and tag not in options.NO_OPTION_DATES:
                return Rule(Do.DATE, base, "DT" if tag in options.OTHER_DATES else vr)
        if vr == "UI" and Option.RETAIN_UIDS in self._options and self._retains_uid(parent, tag):
            return Rule(Do.STRUCTURE, base, vr)
        if tag in self._retained:
            return Rule(Do.WALK if vr == "SQ" else Do.KEEP, base, vr)
        if tag in self._cleaned:
            if tag in _CONTENT_SEQUENCES:
                return Rule(Do.CONTENT, base, vr)
            return Rule(Do.WALK if vr == "SQ" else Do.WORDS, base, vr)
        return None

    def _retains_uid(self, parent: int, tag: int) -> bool:
        """Tell whether a row is in the option's column; that of a content item is in its concept's (E.3.4)."""
        is_content = parent == _CONTENT and Option.CLEAN_STRUCTURED_CONTENT in self._options
        return tag not in options.NO_OPTION_UIDS or is_content

    def _base(self, parent: int, tag: int, vr: str, code: str) -> Do:
        """Return what the Basic Profile's code comes to (PS3.15 Table E.1-1a).

        Where the IOD does not have the attribute, removing it is right whatever the code says (PS3.15 E.1.1). Of a
        class that nobody knows everything counts as required.
        """
        if tag in _DROPPED_FOR_ANOTHER:
            return Do.DROP
        if code in _BY_TYPE:
            kind = "1" if self._types is None else self._types.get((parent, tag))
            code = "X" if kind is None else _BY_TYPE[code][kind]
        does = _DOES[code]
        return Do.UID if does is Do.DUMMY and vr == "UI" else does

    def _by_vr(self, parent: int, tag: int, vr: str, stated: str) -> Rule:
        """Decide on what stands in no row of the table."""
        if 0x7F00 <= tag >> 16 <= 0x7FFF and (parent != tables.TOP or tag not in _PIXELS):
            return _DROP  # pixels that nobody looks at
        needed = self._needed(parent, tag)
        if vr == "SQ":
            return Rule(Do.WALK, Do.DROP, vr) if stated in {"SQ", "UN"} else _DROP
        if vr == "UI":
            keeps = tag in _STRUCTURE or Option.RETAIN_UIDS in self._options
            return Rule(Do.STRUCTURE if keeps else Do.UID, Do.DROP, vr)
        if vr in _DATES:
            return Rule(Do.DATE, needed, vr) if self._dates_stay else Rule(needed, needed, vr)
        if vr in {"PN", "AE"}:
            return Rule(needed, needed, vr)
        if tag == _TEXT_VALUE and Option.CLEAN_DESCRIPTORS not in self._options:
            return Rule(needed, needed, vr)
        if vr in _TEXTS:
            return Rule(Do.TECHNICAL if tag in _TECHNICAL else Do.WORDS, needed, vr)
        if vr in {"CS", "AS"}:
            return Rule(Do.CODED, Do.DROP, vr) if stated in _SPOKEN or stated == "UN" else _DROP
        if vr in _NUMBERS:
            return Rule(Do.NUMBER, Do.DROP, vr)
        is_bytes = vr == "OB" and (tag >> 16 == _PIXEL_GROUP or tag in _WAVEFORM_BYTES)
        if (vr in _BINARY or is_bytes) and stated not in _SPOKEN and stated != "SQ":
            return Rule(Do.KEEP, Do.DROP, stated if stated != "UN" else vr)
        return _DROP

    def _needed(self, parent: int, tag: int) -> Do:
        """Return the weakest that the IOD lets be done to an attribute."""
        kind = "1" if self._types is None else self._types.get((parent, tag), "3")
        return {"1": Do.DUMMY, "2": Do.EMPTY, "3": Do.DROP}[kind]
