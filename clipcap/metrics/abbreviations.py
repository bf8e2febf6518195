"""Abbreviations that keep their full stop in the tokenizer of the COCO caption evaluation (found by trying)."""

from __future__ import annotations

ABBREVIATIONS = frozenset(
    """
    adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bhd bldg blvd brig bros calif capt cf cie cmdr co col
    colo conn corp cos cpl ct dec dept det dr drs ed.d elec ens esq est etc ext feb fla fri ft ga gen gov hon inc ind
    insp intl jan jos jr jul jun kan kans ky lt ltd maj mar md messrs mich minn mlle mme mo mon mont mr mrs ms mt natl
    neb nev nov oct okla penn pfc ph ph.d plc pres prof pvt rd rep reps rev sen sens sep sept sgt sq sr st ste supt sys
    tel tenn thu thurs treas tue tues univ va vs vt wed wis wisc wm wyo
    """.split()  # noqa: SIM905
)
"""In any case."""

CAPITALIZED = frozenset("ark del ill la mass mfg miss ore pa pte pty tex wash".split())  # noqa: SIM905
"""Only where they begin with a capital: in lower case they are words."""

BEFORE_NUMBERS = frozenset("art ca fig figs no nos op pp prop".split())  # noqa: SIM905
"""Only before a number."""
