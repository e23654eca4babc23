/* SPDX-License-Identifier: MIT
 * Every derivative, in double.
 */
#include "net_case.h"

/* Weights of balance and sticky loss are floats in the options. */
static void same_as_torch(void **state)
{
    (void)state;
    for (size_t i = 0; i < PG_COUNT(net_torch_cases); i++) {
        net_check_torch(net_torch_cases[i], 1e-7);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_as_torch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
