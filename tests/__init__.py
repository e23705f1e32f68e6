"""A regular package: a namespace package would lose to any installed one that is called `tests`."""
