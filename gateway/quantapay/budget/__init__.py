"""How many calls QuantaPay gets: one budget over all processes (interface §2.3).

A call is granted only if fewer than N were granted in the last window and one second more, so that no window as
QuantaPay sees it holds more than N, even where calls take unequal time to get there. Of these N

* urgent calls may use all,
* reads and background work together at most four fifths, and
* background work at most a fifth; each at least one.

So a create always finds at least a fifth. Every grant is kept in Redis for the length of a window (`ledger.lua`): up
to 2 N members of sorted sets, which Redis must not evict (`noeviction`).

**Without Redis** each process goes on with its share (`share.py`): N ÷ processes, counting its own grants of the
window, those it got through Redis too. And until a window has passed since it last knew the whole, at most what was
left then ÷ processes, so that a budget which others had spent is not spent again. A share of N is at least one
call, because none for ever would be an outage: with more processes than N, those too many can exceed it by one each.

**When Redis is back**, with or without its data, each process reports its own grants before it is granted anything,
and for six seconds, until all have reported, is granted only what it might take alone.

Gaps that are left:

* What others were granted after a process last looked, at most five seconds before, is missing from what it knows.
* While only some processes are cut off, they use their share and the others all of the budget.
* A process that did not notice an outage may use all of the budget until those that did have come back, which takes
  them up to half a second.
* Nobody reports the grants of a process that ended.
"""

from gateway.quantapay.budget.shared import Budget, BudgetState, SharedBudget, Unmetered

__all__ = ["Budget", "BudgetState", "SharedBudget", "Unmetered"]
