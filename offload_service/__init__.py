"""The hub service: REST, pages, ledger, and the reconciler of all users' fleets."""
