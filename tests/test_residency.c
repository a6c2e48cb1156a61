/* Which expert moves into VRAM next: warm ones, by a clear lead, within their class, and only while somebody is colder. */
#include "tests/support/check.h"

#include "placement/residency.h"

enum { LAYERS = 3, EXPERTS = 8, USED = 2 };

static const uint8_t classes[LAYERS] = {0, 0, 1};
static const bool may_move[LAYERS] = {true, true, true};

static struct residency *must_open(const struct residency_options *o) {
    struct residency *r;
    struct reason why = {{0}};
    if (residency_open(o, &r, &why)) fail_test("%s", why.text);
    return r;
}

static struct residency_options plain(void) {
    return (struct residency_options){.n_layers = LAYERS, .n_experts = EXPERTS, .n_used = USED, .n_classes = 2, .layer_class = classes, .may_move = may_move};
}

/* Experts 0..3 of each layer are in VRAM. */
static struct residency *open_half(const struct residency_options *o) {
    struct residency *r = must_open(o);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t e = 0; e < EXPERTS / 2; e++) residency_set(r, l, e, true);
    return r;
}

static void use(struct residency *r, uint32_t layer, int32_t a, int32_t b, uint32_t times) {
    for (uint32_t i = 0; i < times; i++) {
        residency_use(r, layer, (const int32_t[USED]){a, b}, 1);
        residency_advance(r, 1);
    }
}

static bool anything(void *ctx, uint32_t layer, uint32_t expert) {
    (void)ctx, (void)layer, (void)expert;
    return true;
}

static bool not_seven(void *ctx, uint32_t layer, uint32_t expert) {
    (void)ctx, (void)layer;
    return expert != 7;
}

static void a_clear_lead_is_needed(void **state) {
    (void)state;
    struct residency_move m;
    const struct residency_options o = plain();
    struct residency *r = open_half(&o);
    assert_false(residency_next(r, anything, NULL, &m));
    use(r, 0, 0, 7, 10); /* ten uses may be chance */
    assert_false(residency_next(r, anything, NULL, &m));
    use(r, 0, 0, 7, 10);
    assert_true(residency_next(r, anything, NULL, &m));
    assert_int_equal(m.layer, 0);
    assert_int_equal(m.expert, 7);
    assert_true(m.victim_expert < EXPERTS / 2 && classes[m.victim_layer] == 0 && !(m.victim_layer == 0 && m.victim_expert == 0));
    assert_false(residency_next(r, not_seven, NULL, &m));
    residency_close(&r);
}

/* Two experts that are chosen as often never change places. */
static void equals_stay(void **state) {
    (void)state;
    struct residency_move m;
    uint32_t random = 1;
    const struct residency_options o = plain();
    struct residency *r = open_half(&o);
    for (uint32_t i = 0; i < 3000; i++) {
        int32_t chosen[USED];
        for (int k = 0; k < USED; k++) {
            random = random * 1664525 + 1013904223;
            chosen[k] = (int32_t)(random >> 16) % (EXPERTS / USED) + k * (EXPERTS / USED); /* two different ones, all alike */
        }
        for (uint32_t l = 0; l < LAYERS; l++) residency_use(r, l, chosen, 1);
        residency_advance(r, 1);
        if (residency_next(r, anything, NULL, &m)) fail_test("token %u: %u.%u for %u.%u", i, m.layer, m.expert, m.victim_layer, m.victim_expert);
    }
    residency_close(&r);
}

/* After a change of subject the warm ones come in, one after the other, and then it is quiet. */
static void a_new_subject_settles(void **state) {
    (void)state;
    struct residency_move m;
    const struct residency_options o = plain();
    struct residency *r = open_half(&o);
    use(r, 2, 0, 1, 300);
    uint32_t moved = 0;
    for (uint32_t i = 0; i < 2000; i++) {
        use(r, 2, 6, 7, 1);
        if (!residency_next(r, anything, NULL, &m)) continue;
        assert_int_equal(m.layer, 2);
        assert_int_equal(m.victim_layer, 2); /* the only one of its class */
        assert_true(m.expert == 6 || m.expert == 7);
        assert_true(m.victim_expert == 2 || m.victim_expert == 3); /* never used, so colder than 0 and 1 */
        residency_set(r, m.layer, m.expert, true);
        residency_set(r, m.victim_layer, m.victim_expert, false);
        moved++;
    }
    assert_int_equal(moved, 2);
    residency_close(&r);
}

static void layers_can_be_bound(void **state) {
    (void)state;
    struct residency_move m;
    const bool may[LAYERS] = {false, true, true};
    struct residency_options o = plain();
    o.may_move = may;
    struct residency *r = open_half(&o);
    use(r, 0, 6, 7, 50);
    assert_false(residency_next(r, anything, NULL, &m)); /* not in */
    use(r, 1, 0, 7, 50);
    assert_true(residency_next(r, anything, NULL, &m)); /* and nobody of layer 0 out */
    assert_int_equal(m.victim_layer, 1);
    residency_close(&r);
}

static void a_profile_counts_until_seen(void **state) {
    (void)state;
    struct residency_move m;
    float prior[LAYERS * EXPERTS] = {0};
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t e = 0; e < EXPERTS; e++) prior[l * EXPERTS + e] = e < EXPERTS / 2 ? .4f : .1f;
    struct residency_options o = plain();
    o.prior = prior;
    struct residency *r = open_half(&o);
    use(r, 0, 0, 7, 25);
    assert_false(residency_next(r, anything, NULL, &m));
    use(r, 0, 0, 7, 200);
    assert_true(residency_next(r, anything, NULL, &m) && m.expert == 7);
    residency_close(&r);
}

static void bad_shapes_are_refused(void **state) {
    (void)state;
    struct residency *r;
    struct reason why = {{0}};
    struct residency_options o = plain();
    o.n_used = EXPERTS + 1;
    assert_int_equal(residency_open(&o, &r, &why), ERR_ARGUMENT);
    assert_null(r);
    residency_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_clear_lead_is_needed), cmocka_unit_test(equals_stay),
        cmocka_unit_test(a_new_subject_settles),  cmocka_unit_test(layers_can_be_bound),
        cmocka_unit_test(a_profile_counts_until_seen), cmocka_unit_test(bad_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
