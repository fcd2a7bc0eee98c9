"""Options of a session and controls of its model in one dict, taken apart."""

import inspect

from audiomask.runtime.session import Session

OPTIONS = set(inspect.signature(Session.__init__).parameters)


def keywords(values):
    """Return the keywords of `Session` or `Session.set` for options and controls that stand side by side."""
    options = {key: value for key, value in values.items() if key in OPTIONS}
    return options | {"controls": {key: value for key, value in values.items() if key not in OPTIONS}}
