"""The forms that a secret takes in text: what masks it has to know them all.

Shared by the redactor of logs and by the child process that talks to the Git host. Imports nothing of the app
but what hides its variables.
"""

from __future__ import annotations

import binascii
import html
import re
from json.encoder import encode_basestring_ascii
from urllib.parse import quote, quote_plus

from coderepos.hidden import HiddenBytes, HiddenText

SHORTEST_FORM = 6
"""Fewer characters are found in any text."""


def secret_forms(secret: str) -> list[str]:
    """Return every form that a secret takes in text, the longest first.

    In base64 only the characters that the secret alone decides are searched for, at each of the three alignments.
    """
    secret, raw = HiddenText(secret), HiddenBytes(secret.encode(errors="surrogatepass"))
    percent = list(map(HiddenText, (quote(raw, safe=""), quote(raw), quote_plus(raw))))
    forms = [secret, *percent]
    forms += map(HiddenText, map(_lower_percent, percent))
    forms += map(HiddenText, (html.escape(secret), raw.hex(), raw.hex().upper(), encode_basestring_ascii(secret)[1:-1]))
    forms += map(HiddenText, (str.__repr__(secret)[1:-1], bytes.__repr__(raw)[2:-1]))
    for shift in range(3):
        encoded = HiddenText(binascii.b2a_base64(bytes(shift) + raw, newline=False), encoding="ascii")
        fixed = HiddenText(encoded[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6])
        forms += [fixed, HiddenText(fixed.translate(str.maketrans("+/", "-_")))]
    return sorted({form for form in forms if len(form) >= SHORTEST_FORM}, key=len, reverse=True)


def _lower_percent(text: str) -> str:
    return re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), text)
