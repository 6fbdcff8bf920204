"""Names that several parts of a run share: its recipes, and the files of its workspace."""

GRPO, EARLY_BOOTSTRAP, PLATEAU, AUTO_NPO = "grpo", "early-bootstrap", "plateau-breakthrough", "auto-npo"
RECIPE_NAMES = (GRPO, EARLY_BOOTSTRAP, PLATEAU, AUTO_NPO)
FORK = "fork"  # goes on with a run that is there, with other settings, in a workspace of its own

CONFIG_FILE = "config.json"  # of the workspace
STARTED_FILE = "started.json"  # which recipe was started last, and its own settings
FORK_FILE = "fork.json"  # where the run was forked from, and what it changed
FUNCTIONS_FILE = "functions.json"  # the source of each function that verifies, as the run was begun with it
STOP_FILE = "stop"  # its presence ends stages, and none is started
DRAWS = 2  # how random numbers are drawn: a run of another way (1: before 0.3) cannot go on exactly
SPEC_FILE, RESULT_FILE = "spec.json", "result.json"  # of a stage
EVENTS_FILE, LOG_FILE, ERROR_FILE = "events.jsonl", "log.txt", "error.json"
