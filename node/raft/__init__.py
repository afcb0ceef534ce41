"""The Raft engine and what it stands on. It orders bytes and knows no command.

`engine` is sans-IO, with its parts in `frames`, `inbound`, `progress`, `election`, `voting`,
`durable_outbox`, `library_log` and `compat` (pysyncobj, by its private names); `journal` keeps log, term and
vote on the disk; `transport` carries frames between members; `driver` makes them all go round.
"""
