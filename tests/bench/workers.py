"""Whether a request costs more where two workers and their supervisor share the work."""

from contextlib import ExitStack
from functools import partial

from tests.bench.field import Field
from tests.bench.findings import Findings, Target
from tests.bench.measure import alternate, measure, ratio
from tests.bench.servers import running_gateway
from tests.bench.subjects import PASS_THROUGH, READ

MOST = 1.1
"""What a request may cost with two workers, in terms of one."""


def compare(field: Field, findings: Findings) -> None:
    """Drive a gateway of two workers in turn with one of one."""
    with ExitStack() as stack:
        gateways = {number: stack.enter_context(running_gateway(field.upstream, workers=number)) for number in (1, 2)}
        for title, requests in (("cached read", READ), ("pass-through", PASS_THROUGH)):
            drives = {
                str(number): partial(measure, gateway, requests, connections=field.pace.connections)
                for number, gateway in gateways.items()
            }
            found = alternate(drives, rounds=field.pace.rounds, seconds=field.pace.seconds)
            compared = ratio(found["2"], found["1"]).median
            findings.targets.append(Target(f"{title} with two workers, in terms of one", MOST, compared))
