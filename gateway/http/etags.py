"""Whether a caller has an answer already (RFC 9110 §13.1.2)."""

import re

_TAGS = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def has_it(if_none_match: str | None, etag: str) -> bool:
    """Tell whether `etag` is among the tags of an `If-None-Match` header, or any tag at all will do (`*`).

    Compared weakly, as the header asks (§8.8.3.2): a proxy that compresses may have made a strong tag weak.
    """
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag.removeprefix("W/") in _TAGS.findall(if_none_match)
