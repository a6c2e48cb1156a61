#include "cli/cli.h"

int cmd_perplexity(struct cli *c) { return cli_usage(c, "perplexity is not in this build yet"); }
