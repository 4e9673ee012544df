"""What every other folder uses: checks and their messages, files, random generators, results with names."""
