"""A stateful stand-in for QuantaPay, written from the contract alone; it shares no code with what it tests.

`app.py` is the place to start. What the contract does not know is made up, and is called `simulated-…`.
"""

from gateway.sandbox.simulator.app import create_simulator
from gateway.sandbox.simulator.options import SimulatorOptions
from gateway.sandbox.simulator.serve import running_simulator, simulator_server

__all__ = ["SimulatorOptions", "create_simulator", "running_simulator", "simulator_server"]
