#include "cli/cli.h"

int cmd_tokenize(struct cli *c) { return cli_usage(c, "tokenize is not in this build yet"); }
int cmd_detokenize(struct cli *c) { return cli_usage(c, "detokenize is not in this build yet"); }
