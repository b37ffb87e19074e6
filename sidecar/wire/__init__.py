"""What crosses a process, and the rules about it. Imports nothing of the project."""
