"""The one exception meant for people.

Everything that a stranger's picture, words, checkpoint or network can do wrong ends as a
:class:`UserError`: one sentence that says what happened and what to do. The command line prints it, the
interface shows it, and neither shows a traceback. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """One sentence for a person: what happened, and the way out."""
