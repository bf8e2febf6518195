"""Word lists of the tokenizer of the COCO caption evaluation, found by trying words on it."""

from __future__ import annotations

ABBREVIATIONS = frozenset(
    """
    adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bhd bldg blvd brig bros calif capt cf cie
    cmdr co col colo conn corp cos cpl ct dak dec dept det dr drs ed.d elec ens esq est etc ext feb fla fri ft ga
    gen gov hon inc ind insp intl invt jan jos jr jul jun kan kans ky lt ltd maj mar md messrs mich minn mlle mme mo
    mon mont mr mrs ms mt natl neb nev nov oct okla penn pfc ph ph.d plc pres prof profs pvt rd rep reps rev rt sen
    sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs treas tue tues univ va vs vt wed wis wisc
    wm wyo
    """.split()  # noqa: SIM905
)
"""Keep their full stop, in any case."""

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
