"""One short file a job: load, build, run, report; and the command line."""
