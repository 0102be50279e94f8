"""What keeps a terminal safe from texts that may be a stranger's."""

import re

# C0, DEL and C1 but for tab, newline and carriage return; and what turns the direction of text around. A terminal takes
# some for orders: to move, to hide, to set its title, to answer.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """The text with a replacement character for each character that a terminal might obey."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
