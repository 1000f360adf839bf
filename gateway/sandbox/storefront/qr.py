"""QR codes as SVG."""

import io

import segno

LONGEST = 1000
"""ASCII characters; a longer text makes a code that a phone's camera cannot read from a screen."""
_QUIET_ZONE = 4
"""Light modules around the code, as ISO/IEC 18004 asks for."""


def qr_svg(text: str) -> bytes:
    """Return a QR code as an SVG image that fills its box; `text` has at most `LONGEST` characters, all ASCII."""
    out = io.BytesIO()
    code = segno.make_qr(text, error="m")
    code.save(out, kind="svg", border=_QUIET_ZONE, xmldecl=False, omitsize=True, dark="#1f1c18", light="#ffffff")
    return out.getvalue()
