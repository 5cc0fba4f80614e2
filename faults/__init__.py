"""Make faults, and count what they cost: ``make faults``.

Real processes, servers and databases on the loopback are killed, stopped, filled up and flooded
under load. A run ends with a table, and with exit code 1 if a promise did not hold.

`__main__` is the command, `report` the table, `program` the pipeline that is put under load,
`process` runs it, `clients` loads it and remembers what was answered, `databases` looks into the
tables from outside. Each other module is a scenario or a few of one kind.
"""
