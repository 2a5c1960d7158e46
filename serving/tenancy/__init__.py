"""Who uses the service, and what they used: accounts, tokens, limits, the journal, the ledger.

A request asks `identity` who is calling, which answers from memory. When it ends, `journal` writes
its receipt to a local file before anything else can happen to it, and `ledger` carries what is
written there into the `database`, once. Queued requests wait in `batches`. All SQL is in
`accounts`, `agreements`, `batches`, `ledger` and `usage`; `tables` and `migrations` say what the
database looks like.
"""
