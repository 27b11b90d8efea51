"""What a licence's name or text says about commercial use."""

from __future__ import annotations

import re

_FORBIDS = re.compile(
    r"""(?ix)
    (?<![a-z]) nc (?![a-z])                         # CC-BY-NC-4.0, cc-by-nc-sa, NC
    | non [\s_-]* commercial                        # noncommercial, non-commercial, Non Commercial
    | (?: no | not (?:\s+for)? ) [\s_-]+ commercial
    | (?: research | academic | educational | personal ) (?: [\s_/-]+ (?:and|or|purposes?|use) )* [\s_-]+ only
    | only [\s_-]+ for [\s_-]+ (?: research | academic )
    """
)


def forbids_commercial_use(text: str) -> bool:
    """Whether the licence, by SPDX name or in words, excludes commercial use.

    An unknown licence is assumed to allow it: the user named it and is responsible for it.

    >>> [forbids_commercial_use(text) for text in ("CC-BY-NC-4.0", "research use only", "MIT")]
    [True, True, False]
    """
    return _FORBIDS.search(text) is not None
