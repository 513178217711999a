"""The ledger's migrations, run by `repair.schema`; knows the tables of every version."""
