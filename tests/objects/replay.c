/*
 * Does with an object what its standard input says, and writes what comes of it: the other half of tests/tests/objects.rs.
 *
 * A command is a letter and its operands; every answer begins with a status of 32 bits:
 *
 *   B seed                          init
 *   T samples rate inputs labels    train_step; losses
 *   E                               end_epoch
 *   I samples inputs                infer; scores
 *   X                               export; weights
 *   M weights                       import
 *   C                               copies the state to another place and forgets the old one; no answer
 *
 * Before every call the arena is full of noise, and after it the bytes around the caller's memory must be as they were.
 */
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

enum { GUARD = 4096, NOISE = 0xa5 };

struct block {
    alignas(NET_ALIGN) unsigned char before[GUARD];
    alignas(NET_ALIGN) unsigned char state[NET_STATE_BYTES];
    alignas(NET_ALIGN) unsigned char between[GUARD];
    alignas(NET_ALIGN) unsigned char arena[NET_ARENA_BYTES];
    alignas(NET_ALIGN) unsigned char after[GUARD];
};

static struct block blocks[2];
static struct block *at = &blocks[0];
static float losses[NET_LAYERS + 1], weights[NET_WEIGHTS];

/* Reads an operand; there is one, since the test wrote it. */
static void take(void *to, size_t bytes)
{
    if (fread(to, 1, bytes, stdin) != bytes)
        exit(3);
}

static void *take_many(size_t count, size_t bytes)
{
    void *many = malloc(count * bytes + 1);
    if (many == NULL)
        exit(4);
    take(many, count * bytes);
    return many;
}

static void give(const void *from, size_t bytes)
{
    fwrite(from, 1, bytes, stdout);
}

static void give_status(net_status status)
{
    uint32_t number = (uint32_t)status;
    give(&number, sizeof number);
}

static void fill_with_noise(struct block *block)
{
    memset(block, NOISE, sizeof *block);
}

static int is_noise(const unsigned char *bytes)
{
    for (size_t i = 0; i < GUARD; i++)
        if (bytes[i] != NOISE)
            return 0;
    return 1;
}

static void train(void)
{
    uint64_t samples;
    float rate;
    take(&samples, sizeof samples);
    take(&rate, sizeof rate);
    net_input *inputs = take_many(samples * NET_FEATURES, sizeof *inputs);
    int32_t *labels = take_many(samples, sizeof *labels);
    give_status(net_train_step(at->state, at->arena, inputs, labels, samples, rate, losses));
    give(losses, NET_LAYERS * sizeof *losses);
    free(inputs);
    free(labels);
}

static void infer(void)
{
    uint64_t samples;
    take(&samples, sizeof samples);
    net_input *inputs = take_many(samples * NET_FEATURES, sizeof *inputs);
    float *scores = calloc(samples * NET_CLASSES + 1, sizeof *scores);
    if (scores == NULL)
        exit(4);
    give_status(net_infer(at->state, at->arena, inputs, samples, scores));
    give(scores, samples * NET_CLASSES * sizeof *scores);
    free(inputs);
    free(scores);
}

static void copy_state(void)
{
    struct block *other = at == &blocks[0] ? &blocks[1] : &blocks[0];
    memcpy(other->state, at->state, NET_STATE_BYTES);
    fill_with_noise(at);
    at = other;
}

static void run(int command)
{
    uint64_t seed;
    switch (command) {
    case 'B':
        take(&seed, sizeof seed);
        give_status(net_init(at->state, seed));
        break;
    case 'T':
        train();
        break;
    case 'E':
        give_status(net_end_epoch(at->state));
        break;
    case 'I':
        infer();
        break;
    case 'X':
        give_status(net_export(at->state, weights));
        give(weights, sizeof weights);
        break;
    case 'M':
        take(weights, sizeof weights);
        give_status(net_import(at->state, weights));
        break;
    case 'C':
        copy_state();
        break;
    default:
        exit(5);
    }
}

int main(void)
{
    fill_with_noise(&blocks[0]);
    fill_with_noise(&blocks[1]);
    for (int command = getchar(); command != EOF; command = getchar()) {
        memset(at->arena, NOISE, NET_ARENA_BYTES);
        run(command);
        if (!is_noise(at->before) || !is_noise(at->between) || !is_noise(at->after))
            return 6;
    }
    return 0;
}
