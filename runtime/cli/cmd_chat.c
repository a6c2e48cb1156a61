/* chat: the conversation on a terminal. Placeholder until it lands. */
#include "cli/cli.h"

int cmd_chat(struct cli *c) { return cli_usage(c, "chat is not in this build yet"); }
