"""A user of the sidecar, whole: a control plane, a fleet controller, and the proof (`make demo`).

schema     the control plane's tables, and the two ways they travel: a dump of all, rows by tenant
plane      the SQLite control plane: its changes, its outbox, its snapshots
fleet      the fleet controller, a process of its own: follows the feed into its own database
processes  the worker and the controller as child processes, and `sidecar … --json` as a call
claims     what should hold, judged by what `sidecar audit`, `status`, `dead` and `trace` print
stage      the output: for a terminal, for a pipe, as JSON
story      the script, chapter by chapter
"""
