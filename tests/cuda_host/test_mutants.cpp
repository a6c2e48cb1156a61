/* Which build finds which planted bug: runs the mutants of samples.cuh, each in a process of its own, in three builds and the three
 * orders of threads, prints the table, and demands that race and ASan builds together find nearly all of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>
#include <string>

#include "tests/support/check.h"

struct mutant {
    int number;
    std::string text;
};

static const char *const programs[3] = {MUTANTS_PLAIN, MUTANTS_ASAN, MUTANTS_RACE};
enum { PLAIN, ASAN, RACE };

static std::vector<mutant> list_mutants(void) {
    std::vector<mutant> all;
    char line[256];
    FILE *f = popen(MUTANTS_PLAIN, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        char *rest;
        const long number = strtol(line, &rest, 10);
        rest[strcspn(rest, "\n")] = 0;
        all.push_back(mutant{static_cast<int>(number), rest + 1});
    }
    assert_int_equal(pclose(f), 0);
    return all;
}

/* True when the run ended in any way but "values right, nothing found". */
static bool finds(const char *program, int number, int order) {
    char digits[16], way[2] = {static_cast<char>('0' + order), 0};
    snprintf(digits, sizeof digits, "%d", number);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        setenv("CH_ORDER", way, 1);
        if (!freopen("/dev/null", "w", stderr)) _exit(3);
        alarm(30);
        execl(program, program, digits, static_cast<char *>(nullptr));
        _exit(3);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) >= 2); // 2: no such mutant, 3: the program did not start
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void race_and_asan_find_planted_bugs(void **) {
    const std::vector<mutant> all = list_mutants();
    unsigned found[3] = {}, either = 0, plain_first = 0;
    assert_true(all.size() >= 20);
    printf("  # plain   asan    race    (x: found, by order of threads: ascending, descending, shuffled)\n");
    for (const mutant &m : all) {
        bool by[3] = {}, row[3][3];
        for (int program = PLAIN; program <= RACE; program++) {
            for (int order = 0; order < 3; order++) by[program] |= row[program][order] = finds(programs[program], m.number, order);
            found[program] += by[program];
        }
        plain_first += row[PLAIN][0];
        either += by[ASAN] || by[RACE];
        printf(" %2d ", m.number);
        for (int program = PLAIN; program <= RACE; program++) {
            for (int order = 0; order < 3; order++) putchar(row[program][order] ? 'x' : '.');
            printf("     ");
        }
        printf("%s\n", m.text.c_str());
    }
    printf("of %zu: plain, ascending order alone %u; plain %u; asan %u; race %u; race or asan %u\n", all.size(), plain_first, found[PLAIN],
           found[ASAN], found[RACE], either);
    assert_true(either * 100 >= all.size() * 95);
    assert_true(found[RACE] * 100 >= all.size() * 90); // no build leans on the other for most of it
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(race_and_asan_find_planted_bugs)};
    setvbuf(stdout, nullptr, _IOLBF, 0);
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
