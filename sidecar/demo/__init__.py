"""`sidecar demo`: the whole path on a real control plane, and the proof that it held.

schema        the control plane's tables; dumps and row artifacts
controlplane  the SQLite control plane: its transactions, its outbox, its snapshots
node          the threads of a control-plane node: a writer, an emitter
controller    the fleet controller, a process of its own
processes     the worker and the controller as child processes
evidence      what Redis and the store hold, read from outside, and the claims upon it
stage         how it is told: on a terminal, in a pipe, as JSON
story         the script
"""
