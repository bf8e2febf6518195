"""Word lists of the tokenizer of the COCO caption evaluation, found by trying words on it."""

from __future__ import annotations

TITLES = frozenset(
    """
    adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col cpl dept det dr drs elec ens ft gen gov hon
    insp invt jos lt maj messrs mlle mme mr mrs ms mt natl pfc ph pres prof profs pvt rep reps rev sen sens sfc sgt
    spc st ste supt treas vs wm
    """.split()  # noqa: SIM905
)
"""Keep their full stop, in any case."""

ABBREVIATIONS = frozenset(
    """
    al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec ed.d esq est etc ext feb fla
    fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn ph.d
    plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo
    """.split()  # noqa: SIM905
)
"""Keep it, too, and even where a single character follows at once ("etc.a")."""

CAPITALIZED = frozenset("ark az del ill la mass miss ore pa tex wash".split())  # noqa: SIM905
"""Keep it only where they begin with a capital: in lower case they are words."""

NOT_ALL_CAPITALS = frozenset("mfg mtg pte pty ptys".split())  # noqa: SIM905
"""Keep it unless written in capitals."""

BEFORE_NUMBERS = frozenset("art ca fig figs no nos op pp prop".split())  # noqa: SIM905
"""Keep it only before a number."""

SENTENCE_STARTS = frozenset(
    """
    a about according after an as at but earlier he her here however if in it last many more now once one other our she
    since so some such that the their then there these they this we what when while yet you
    """.split()  # noqa: SIM905
)
"""Before one of these, capitalized, the full stop of a single letter ends a sentence."""

FILE_ENDINGS = frozenset(
    """
    bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql
    tar txt wav x xml zip
    """.split()  # noqa: SIM905
)
"""Hold a name with digits and a full stop together."""
