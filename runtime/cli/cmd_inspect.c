#include "cli/cli.h"

int cmd_inspect(struct cli *c) { return cli_usage(c, "inspect is not in this build yet"); }
