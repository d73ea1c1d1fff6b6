"""What a command prints about itself for other programs: completion scripts and the JSON schema of --config files."""
