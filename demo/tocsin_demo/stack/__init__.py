"""What `make demo` runs: PostgreSQL, made-up events, Tocsin, an inbox and, where they are installed, Prometheus and
Alertmanager.

Reading order: `demo` (all of it together), `processes` and `reaper` (start other processes, and end them whatever
happens), `tocsin` (Tocsin's process), `activity` (notifications to lines), `screen`.
"""
