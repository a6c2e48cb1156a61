#include "cli/cli.h"

int cmd_run(struct cli *c) { return cli_usage(c, "run is not in this build yet"); }
