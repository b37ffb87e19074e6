"""What a command line needs, whatever its commands do: options, variables, output, files."""
