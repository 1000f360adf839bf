"""How urgent a call to QuantaPay is: who may use how much of the budget (interface §2.3)."""

from enum import StrEnum


class Urgency(StrEnum):
    """Which part of the budget a call may use."""

    URGENT = "urgent"
    """Creates and confirmations: all of it."""
    READ = "read"
    """Reads: at most 80 %, so that creates always find some."""
    BACKGROUND = "background"
    """What nobody waits for: at most 20 %."""
