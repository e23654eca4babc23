/* SPDX-License-Identifier: MIT
 * For check_scores.py: texts on standard input, each followed by a 0, answered on standard output.
 *
 *   normalise   each text as SQuAD's normalisation leaves it, followed by a 0
 *   marks       each two texts: "exact-match F1-of-v1.1 F1-of-v2.0", a line
 *   unassigned  no input: the code points that the tables do not know, "first last" a line
 */
#include "base/os.h"
#include "eval/score.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static void print_unassigned(void)
{
    int first = -1;
    for (int cp = 0; cp <= 0x110000; cp++) {
        bool none = cp < 0x110000 && utf8proc_category(cp) == UTF8PROC_CATEGORY_CN;
        if (none && first < 0)
            first = cp;
        if (!none && first >= 0)
            printf("%d %d\n", first, cp - 1);
        first = none ? first : -1;
    }
}

int main(int argc, char **argv)
{
    char *text[2] = {NULL, NULL};
    size_t cap[2] = {0, 0};
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "unassigned"))
        print_unassigned();
    while (!strcmp(what, "normalise") && getdelim(&text[0], &cap[0], '\0', stdin) > 0) {
        char *plain = pg_score_normalise(text[0]);
        PG_ASSERT(plain);
        fwrite(plain, 1, strlen(plain) + 1, stdout);
        free(plain);
    }
    while (!strcmp(what, "marks") && getdelim(&text[0], &cap[0], '\0', stdin) > 0 &&
           getdelim(&text[1], &cap[1], '\0', stdin) > 0)
        printf("%.17g %.17g %.17g\n", pg_exact_match(text[0], text[1]),
               pg_score_f1(text[0], text[1], false), pg_score_f1(text[0], text[1], true));
    free(text[0]);
    free(text[1]);
    return fflush(stdout) != 0;
}
