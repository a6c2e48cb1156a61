#include "cli/cli.h"

int cmd_bench(struct cli *c) { return cli_usage(c, "bench is not in this build yet"); }
