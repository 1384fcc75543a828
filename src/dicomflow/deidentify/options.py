"""The option columns of PS3.15 Table E.1-1, edition 2026c: which rows an option retains (K) or has cleaned (C).

No package has them for this edition. Those of UIDs and dates need no list: they are the rows of these VRs, but for what
is named here. A line is a group and its elements.
"""

from collections.abc import Mapping
from typing import Final

from dicomflow.deidentify.settings import Option

__all__ = ["CLEANED", "NO_OPTION_DATES", "NO_OPTION_UIDS", "OTHER_DATES", "RETAINED"]


def _tags(text: str) -> frozenset[int]:
    found = set()
    group = ""
    for word in text.split():
        if word.endswith(":"):
            group = word[:-1]
        else:
            found.add(int(group + word, 16))
    return frozenset(found)


NO_OPTION_DATES: Final = _tags("0016: 0077  0010: 0030 0032")
"""Dates and times that no option retains: those of birth, and a GPS time stamp."""
OTHER_DATES: Final = _tags("0040: A034 A035 B034 B036  0008: 0201")
"""Rows of the dates' columns whose VR does not tell: date times that pydicom does not know, and the offset from UTC."""
NO_OPTION_UIDS: Final = _tags("0400: 0100  0040: A124")

RETAINED: Final[Mapping[Option, frozenset[int]]] = {
    Option.RETAIN_UIDS: _tags("""
    0008: 1110 1111 1120 1140 2112
    """),
    Option.RETAIN_PATIENT_CHARACTERISTICS: _tags("""
    0010: 0040 0043 0046 0047 1010 1020 1030 2160 2161 2162 21A0 21C0 2203
    0072: 005F
    """),
    Option.RETAIN_DEVICE: _tags("""
    0008: 1010
    0014: 407C 407E
    0016: 004E 004F 0050 0051
    0018: 1000 1002 1004 1005 1007 1008 1009 100A 100B 1010 1011 1200 1201 1202 1203 1204 1205 5011 700A 700C
          700E 9367 9371 9373
    0020: 3401
    0032: 1020
    0040: 0010 0011 0242 4025 4027 4028 4030
    0050: 0020
    0400: 0563
    3008: 0105
    300A: 00B2 0216
    300C: 0127
    3010: 002D 0043
    """),
    Option.RETAIN_INSTITUTION: _tags("""
    0008: 0080 0081 0082 1040 1041
    0012: 0030 0031 0060 0081
    0400: 0564
    """),
}
CLEANED: Final[Mapping[Option, frozenset[int]]] = {
    Option.RETAIN_PATIENT_CHARACTERISTICS: _tags("""
    0010: 0042 2110
    0038: 0050 0500
    0040: 0012
    """),
    Option.CLEAN_DESCRIPTORS: _tags("""
    0008: 1030 103E 1080 1084 1088 1301 1302 1303 1304 2111 4000
    0010: 0016 0042 0045 2000 2110 2180 21B0 4000
    0012: 0051 0072
    0016: 002B 004B
    0018: 0010 1030 11BB 1400 4000 9185 937B 937F 9424 9937 A003
    0020: 0027 4000 9158
    0032: 1030 1033 1060 1066 1067 1070 4000
    0038: 0040 0062 0500 4000
    003A: 0020 0203 020C 0329 032B
    0040: 0007 0254 0275 0280 0310 051A 0556 0600 0602 1002 100A 1400 2001 2400 B03B B03F
    0050: 0021
    006A: 0005 0006
    0070: 0006
    0072: 0066 0068 006C 006E 0070
    0400: 0565
    2200: 0002
    3002: 0121 0123
    3006: 0002 0004 0006 0026 0028 0038 0085 0088
    300A: 0002 0003 0004 000B 000E 0016 0072 00C3 00DD 0196 01A6 01B2 02EB 0608 0619 0623 062A 0676 067C 067D
          0734 0742 0783 078E 0792 0794 079A
    300C: 0113
    3010: 000F 0017 0033 0034 0035 0036 0037 0038 0054 0056 005A 005C 0061 0077 007A 007B 007F 0081
    4008: 010B 0115 0300 4000
    """),
    Option.CLEAN_GRAPHICS: _tags("""
    0070: 0001
    """),
    Option.CLEAN_STRUCTURED_CONTENT: _tags("""
    0040: 0555 0610 A730 B020
    """),
}
