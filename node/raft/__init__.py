"""The Raft engine, its journal and its connections. It replicates bytes and does not interpret commands.

`engine` does no I/O. Its parts are `frames`, `following`, `append_check`, `applying`, `progress`, `election`,
`voting`, `terms`, `durable_outbox`, `active_membership`, `library_log` and `pysyncobj_adapter` (the only
module that uses private names of pysyncobj). `journal` keeps log, term and vote on the disk. `transport`
carries frames between members. `driver` runs engine, journal and transport in one loop.
"""
