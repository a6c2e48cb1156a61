"""All tasks, by name. Their order is part of what makes the training text reproducible."""

import tasks_numbers, tasks_lists, tasks_letters, tasks_code  # noqa: E401, F401
from task import TASKS, ask, expand  # noqa: F401
