/*
 * What an object refuses, and that it then changes nothing. Prints the line of the first thing that is otherwise.
 */
#include <math.h>
#include <stdalign.h>
#include <stdio.h>
#include <string.h>

#include "net.h"

static alignas(NET_ALIGN) unsigned char state[NET_STATE_BYTES], before[NET_STATE_BYTES], arena[NET_ARENA_BYTES];
static net_input inputs[(NET_BATCH + 1) * NET_FEATURES];
static int32_t labels[NET_BATCH + 1];
static float scores[NET_CLASSES], losses[NET_LAYERS], weights[NET_WEIGHTS];

#define IS(expected, call)                                          \
    do {                                                            \
        memcpy(before, state, sizeof state);                        \
        int status = (call);                                        \
        int changed = memcmp(before, state, sizeof state) != 0;     \
        if (status != (expected) || (status != NET_OK && changed)) { \
            printf("line %d: status %d\n", __LINE__, status);       \
            return 1;                                               \
        }                                                           \
    } while (0)

static int is_float(void)
{
    return sizeof(net_input) == sizeof(float);
}

int main(void)
{
    IS(NET_BAD_ARGUMENT, net_init(NULL, 1));
    IS(NET_BAD_ARGUMENT, net_init(state + 8, 1));
    IS(NET_BAD_STATE, net_train_step(state, arena, inputs, labels, 1, 0.1f, losses));
    IS(NET_BAD_STATE, net_infer(state, arena, inputs, 1, scores));
    IS(NET_BAD_STATE, net_end_epoch(state));
    IS(NET_BAD_STATE, net_export(state, weights));
    IS(NET_BAD_STATE, net_import(state, weights));

    IS(NET_OK, net_init(state, 1));
    IS(NET_NOT_CALIBRATED, net_infer(state, arena, inputs, 1, scores));

    IS(NET_BAD_ARGUMENT, net_train_step(NULL, arena, inputs, labels, 1, 0.1f, losses));
    IS(NET_BAD_ARGUMENT, net_train_step(state, NULL, inputs, labels, 1, 0.1f, losses));
    IS(NET_BAD_ARGUMENT, net_train_step(state, arena + 32, inputs, labels, 1, 0.1f, losses));
    IS(NET_BAD_ARGUMENT, net_train_step(state, arena, NULL, labels, 1, 0.1f, losses));
    IS(NET_BAD_ARGUMENT, net_train_step(state, arena, inputs, NULL, 1, 0.1f, losses));
    IS(NET_BAD_ARGUMENT, net_train_step(state, arena, inputs, (int32_t *)(arena + 2), 1, 0.1f, losses));
    IS(NET_BAD_BATCH, net_train_step(state, arena, inputs, labels, 0, 0.1f, losses));
    IS(NET_BAD_BATCH, net_train_step(state, arena, inputs, labels, NET_BATCH + 1, 0.1f, losses));
    IS(NET_BAD_BATCH, net_train_step(state, arena, inputs, labels, SIZE_MAX, 0.1f, losses));
    labels[NET_BATCH - 1] = NET_CLASSES;
    IS(NET_BAD_LABEL, net_train_step(state, arena, inputs, labels, NET_BATCH, 0.1f, losses));
    labels[NET_BATCH - 1] = -1;
    IS(NET_BAD_LABEL, net_train_step(state, arena, inputs, labels, NET_BATCH, 0.1f, losses));
    labels[NET_BATCH - 1] = 0;
    if (is_float()) {
        inputs[NET_FEATURES - 1] = (net_input)NAN;
        IS(NET_NOT_FINITE, net_train_step(state, arena, inputs, labels, 1, 0.1f, losses));
        inputs[NET_FEATURES - 1] = (net_input)-INFINITY;
        IS(NET_NOT_FINITE, net_train_step(state, arena, inputs, labels, 1, 0.1f, losses));
        inputs[NET_FEATURES - 1] = 0;
    }

    IS(NET_OK, net_train_step(state, arena, inputs, labels, NET_BATCH, 0.1f, NULL));
    IS(NET_OK, net_infer(state, arena, inputs, 1, scores));
    IS(NET_OK, net_infer(state, arena, inputs, 0, scores));
    IS(NET_BAD_ARGUMENT, net_infer(state, arena, inputs, 1, NULL));
    IS(NET_BAD_ARGUMENT, net_export(state, NULL));
    IS(NET_BAD_ARGUMENT, net_import(state, NULL));
    IS(NET_OK, net_export(state, weights));
    weights[NET_WEIGHTS - 1] = INFINITY;
    IS(NET_NOT_FINITE, net_import(state, weights));

    /* The state of another network. */
    state[0] ^= 1;
    IS(NET_BAD_STATE, net_train_step(state, arena, inputs, labels, 1, 0.1f, losses));
    return 0;
}
