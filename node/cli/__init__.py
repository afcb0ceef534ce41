"""The command line: `main` finds the command, each module here is one."""
