"""Requests that are answered later: `desk` takes them and shows results, `worker` runs them.

They wait in the database (`tenancy.batches`), so that any replica can run what another accepted;
`steps` decides what is run next and what is tried again.
"""
