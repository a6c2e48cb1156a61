#include "cli/cli.h"

int cmd_template(struct cli *c) { return cli_usage(c, "template is not in this build yet"); }
