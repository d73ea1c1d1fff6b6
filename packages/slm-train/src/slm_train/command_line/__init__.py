"""Reading the command line: flags, files of flags, legacy names, help pages."""
