"""The operator's HTTP API, under `/admin/v1`: what the command line does, for programs.

A token with the scope `admin` opens it: with the role `admin` for every account, with the role
`member` for its own account's tokens and usage. Every change leaves an audit row in the same
transaction. Answers and errors are in the envelope of the API beside it.
"""

from serving.admin.api import app

__all__ = ["app"]
