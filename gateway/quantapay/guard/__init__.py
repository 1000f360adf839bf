"""What stands between a call and QuantaPay: is it worth trying, is there room, and is another try worth it.

* `breaker.py`: while calls of a function keep failing, none is sent but one probe every 5 s.
* `bulkhead.py`: so many calls of a function at once, and so many waiting, that it takes nothing from another.
* `retries.py`: which failures are tried again, how often, and how much an outage may add to the traffic.
* `guard.py`: a process's breakers and bulkheads together.

All of it belongs to one process; what replicas share is the budget.
"""

from gateway.quantapay.guard.guard import REFUSALS, BreakerOpen, Guard
from gateway.quantapay.guard.retries import Retries, is_worth_retrying

__all__ = ["REFUSALS", "BreakerOpen", "Guard", "Retries", "is_worth_retrying"]
