"""The settings of a process: environment variables, `.env` and a secrets directory, read once at start.

`load_settings` is the only thing in the gateway that reads the environment. There is no global instance: the
composition root loads one `Settings` and hands it on.
"""

from gateway.settings.faults import ConfigFault, ConfigurationError
from gateway.settings.load import Mode, Reading, load_settings, read_settings, read_variables
from gateway.settings.model import Settings, Variable, variables

__all__ = [
    "ConfigFault",
    "ConfigurationError",
    "Mode",
    "Reading",
    "Settings",
    "Variable",
    "load_settings",
    "read_settings",
    "read_variables",
    "variables",
]
