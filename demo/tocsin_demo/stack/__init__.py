"""What `make demo` runs: a database, made-up events, Tocsin, an inbox and, where they are installed, Prometheus and
Alertmanager, on one machine and gone without a trace afterwards.

Reading order: `ports`, `warden` (a process of its own that starts the others and outlives nobody), `processes` (how to
talk to it), `workspace` (the files in the temporary directory), `monitoring` (Prometheus and Alertmanager), `watchdog`
(Tocsin's process), `producing` (the events), `telling` (from notifications to what is worth a line), `screen`, `demo`
(all of it together).
"""
