/*
 * Trains a network on the device that runs it: an object, its header and nothing else of ffc.
 *
 *     ffc compile examples/mnist_mlp.onnx --data examples/mnist --emit object --target x86_64 -o mlp.o
 *     cc -std=c11 -O2 -ffp-contract=off -I. examples/embed_c/main.c mlp.o -o embed_c
 *     gunzip -k examples/mnist/t*.gz
 *     ./embed_c examples/mnist 2
 *
 * Visits the images in the order of `ffc train --epochs 2`, at the same learning rates, and so ends with the same weights,
 * bit by bit; a third argument names a file to write them to. The network's memory is two arrays; only the data set is
 * allocated. -ffp-contract=off keeps the compiler from rounding the learning rate in another way than ffc does.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "mlp.h"

/* Steps in which the learning rate rises, if they are no more than a tenth of all. */
#define WARMUP 400

/* Room for a block of memory wherever it begins. */
static unsigned char state_room[MLP_STATE_BYTES + MLP_ALIGN], arena_room[MLP_ARENA_BYTES + MLP_ALIGN];
static float weights[MLP_WEIGHTS];

struct dataset {
    size_t count;
    uint8_t *images; /* [count][MLP_FEATURES] */
    uint8_t *labels; /* [count] */
};

static double now(void)
{
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *aligned(unsigned char *room)
{
    return room + (MLP_ALIGN - (uintptr_t)room % MLP_ALIGN) % MLP_ALIGN;
}

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "error: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

static void check(mlp_status status)
{
    if (status != MLP_OK) {
        fprintf(stderr, "error: the network refused a call: status %d, see mlp.h\n", (int)status);
        exit(EXIT_FAILURE);
    }
}

/* Reads a file of MNIST's format: zeros, type, number of dimensions, sizes (big-endian), bytes. Gives the first size. */
static uint8_t *read_idx(const char *folder, const char *name, size_t row_bytes, size_t *rows)
{
    char path[4096];
    uint8_t head[4], size[4];
    size_t row = 1;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        fail(path, "cannot be opened; unpack the data set first");
    if (fread(head, 1, 4, file) != 4 || head[0] != 0 || head[1] != 0 || head[2] != 8 || head[3] == 0)
        fail(path, "is not an IDX file of bytes");
    for (int dimension = 0; dimension < head[3]; dimension++) {
        if (fread(size, 1, 4, file) != 4)
            fail(path, "is too short");
        size_t length = (size_t)size[0] << 24 | (size_t)size[1] << 16 | (size_t)size[2] << 8 | size[3];
        if (dimension == 0)
            *rows = length;
        else
            row *= length;
    }
    if (row != row_bytes)
        fail(path, "has samples of another size than the network");
    uint8_t *bytes = malloc(*rows * row + 1);
    if (bytes == NULL || fread(bytes, row, *rows, file) != *rows)
        fail(path, "is too short, or does not fit into memory");
    fclose(file);
    return bytes;
}

static struct dataset read_dataset(const char *folder, const char *images, const char *labels)
{
    struct dataset data;
    size_t label_count;
    data.images = read_idx(folder, images, MLP_FEATURES, &data.count);
    data.labels = read_idx(folder, labels, 1, &label_count);
    if (data.count == 0 || data.count != label_count)
        fail(folder, "has no images, or not one label for each");
    return data;
}

/* The random numbers of ffc: a function of key and position. */
static uint32_t stir(uint32_t x, int shift, uint32_t factor)
{
    return (x ^ x >> shift) * factor;
}

static uint32_t mix(uint32_t x)
{
    x = stir(stir(x, 16, 0x7feb352d), 15, 0x846ca68b);
    return x ^ x >> 16;
}

static uint32_t key_of(uint64_t seed, uint64_t number)
{
    const uint32_t words[4] = {(uint32_t)seed, (uint32_t)(seed >> 32), (uint32_t)number, (uint32_t)(number >> 32)};
    uint32_t key = 0;
    for (int i = 0; i < 4; i++)
        key = mix(key + words[i] + 0x9e3779b9);
    return key;
}

static uint32_t draw(uint32_t key, uint32_t row)
{
    uint32_t bits = stir(mix(row * 0x85ebca6b ^ key), 16, 0x7feb352d);
    return bits ^ bits >> 16;
}

/* The order of an epoch (Fisher and Yates). */
static void shuffle(uint32_t *order, size_t count, uint64_t epoch)
{
    uint32_t key = key_of(MLP_SEED ^ UINT64_C(0x5851f42d4c957f2d), epoch);
    for (size_t i = 0; i < count; i++)
        order[i] = (uint32_t)i;
    for (size_t last = count - 1; last > 0; last--) {
        size_t other = (size_t)((uint64_t)draw(key, (uint32_t)last) * (last + 1) >> 32);
        uint32_t swapped = order[last];
        order[last] = order[other];
        order[other] = swapped;
    }
}

/* Rises, then falls to 0. */
static float learning_rate(size_t step, size_t steps)
{
    size_t warmup = steps / 10 < WARMUP ? steps / 10 : WARMUP;
    if (warmup == 0)
        warmup = 1;
    if (step < warmup)
        return MLP_LEARNING_RATE * (float)(step + 1) / (float)warmup;
    return MLP_LEARNING_RATE * ((float)(steps - step) / (float)(steps > warmup ? steps - warmup : 1));
}

/* Trains on all images once; gives the mean loss of an image, summed over the layers. */
static double train_epoch(void *state, void *arena, const struct dataset *data, uint32_t *order, size_t epoch, size_t epochs)
{
    static mlp_input images[MLP_BATCH * MLP_FEATURES];
    static int32_t labels[MLP_BATCH];
    float losses[MLP_LAYERS];
    size_t steps = (data->count + MLP_BATCH - 1) / MLP_BATCH;
    double sum = 0;
    shuffle(order, data->count, epoch);
    for (size_t step = 0; step < steps; step++) {
        size_t first = step * MLP_BATCH;
        size_t samples = data->count - first < MLP_BATCH ? data->count - first : MLP_BATCH;
        for (size_t i = 0; i < samples; i++) {
            const uint8_t *image = data->images + (size_t)order[first + i] * MLP_FEATURES;
            for (size_t j = 0; j < MLP_FEATURES; j++)
                images[i * MLP_FEATURES + j] = image[j];
            labels[i] = data->labels[order[first + i]];
        }
        float rate = learning_rate(epoch * steps + step, epochs * steps);
        check(mlp_train_step(state, arena, images, labels, samples, rate, losses));
        for (size_t layer = 0; layer < MLP_LAYERS; layer++)
            sum += (double)losses[layer] * (double)samples;
    }
    check(mlp_end_epoch(state));
    return sum / (double)data->count;
}

/* The share of images whose class has the highest score. */
static double accuracy(const void *state, void *arena, const struct dataset *data)
{
    mlp_input image[MLP_FEATURES];
    float scores[MLP_CLASSES];
    size_t right = 0;
    for (size_t i = 0; i < data->count; i++) {
        int best = 0;
        for (size_t j = 0; j < MLP_FEATURES; j++)
            image[j] = data->images[i * MLP_FEATURES + j];
        check(mlp_infer(state, arena, image, 1, scores));
        for (int class = 1; class < MLP_CLASSES; class++)
            if (scores[class] > scores[best])
                best = class;
        right += best == data->labels[i];
    }
    return (double)right / (double)data->count;
}

int main(int count, char **arguments)
{
    if (count < 3 || count > 4) {
        fprintf(stderr, "usage: embed_c DATA_DIR EPOCHS [WEIGHTS]\n");
        return 2;
    }
    size_t epochs = (size_t)strtoul(arguments[2], NULL, 10);
    struct dataset train = read_dataset(arguments[1], "train-images-idx3-ubyte", "train-labels-idx1-ubyte");
    struct dataset test = read_dataset(arguments[1], "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte");
    void *state = aligned(state_room), *arena = aligned(arena_room);
    uint32_t *order = malloc(train.count * sizeof *order);
    if (order == NULL)
        fail("the order of the images", "does not fit into memory");

    check(mlp_init(state, MLP_SEED));
    for (size_t epoch = 0; epoch < epochs; epoch++) {
        double start = now();
        double loss = train_epoch(state, arena, &train, order, epoch, epochs);
        double seconds = now() - start;
        printf("trained on %zu images, %.0f a second, loss %.3f\n", train.count, (double)train.count / seconds, loss);
    }
    printf("accuracy on %zu test images: %.2f %%\n", test.count, 100 * accuracy(state, arena, &test));
    printf("%d bytes of state, %d bytes of activations\n", MLP_STATE_BYTES, MLP_ARENA_BYTES);

    if (count == 4) {
        FILE *file = fopen(arguments[3], "wb");
        check(mlp_export(state, weights));
        if (file == NULL || fwrite(weights, sizeof *weights, MLP_WEIGHTS, file) != MLP_WEIGHTS || fclose(file) != 0)
            fail(arguments[3], "cannot be written");
    }
    return EXIT_SUCCESS;
}
