/*
 * @name@.h: training and prediction of the network "@network@" on a device. Made by ffc @version@; not to be changed.
 *
 * The code is in @name@.o (@architecture@: @variants@). It needs no library, calls no system and
 * allocates nothing. It works in two blocks of the caller's memory, which begin at multiples of @NAME@_ALIGN:
 *
 *   state  What training has learned, and all that the next step depends on. It holds no addresses: its bytes may be
 *          copied, kept in a file or sent to another machine, and training goes on there to the same bits.
 *   arena  Room to work in, without a content of its own: between two calls it may serve anything else.
 *
 * Beside them it keeps nothing but which code the processor runs, so different states may be trained at the same time in
 * different arenas. Results do not depend on the processor.
 *
 *     @name@_init(state, @NAME@_SEED);
 *     for each batch:
 *         @name@_train_step(state, arena, inputs, labels, samples, learning_rate, losses);
 *     @name@_infer(state, arena, inputs, samples, scores);
 */
#ifndef @NAME@_H
#define @NAME@_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Memory in bytes. The plan has @plan_state@ and @plan_arena@ of them; the rest is what a session keeps beside it. */
#define @NAME@_ALIGN @align@
#define @NAME@_STATE_BYTES @state_bytes@
#define @NAME@_ARENA_BYTES @arena_bytes@

/* Most samples in a training step, numbers in a sample, classes, and layers that are trained. */
#define @NAME@_BATCH @batch@
#define @NAME@_FEATURES @features@
#define @NAME@_CLASSES @classes@
#define @NAME@_LAYERS @layers@

/* The seed that the first weights were drawn with, and the largest learning rate that was asked for. */
#define @NAME@_SEED UINT64_C(@seed@)
#define @NAME@_LEARNING_RATE @learning_rate@f

/*
 * Weights, as they are exported and imported: all parameters one after the other, each row by row.
 *
 *          first      rows   columns
@weights@
 */
#define @NAME@_WEIGHTS @weight_count@

/* A number of a sample, as it comes: preprocessing is part of the network. */
typedef @input@ @name@_input;

/* How a call ended. Unless it is @NAME@_OK, nothing has changed. */
typedef enum @name@_status {
@statuses@
} @name@_status;

/*
 * Makes a state: the weights that training starts from, and the seed of all random numbers that steps draw.
 */
@name@_status @name@_init(void *state, uint64_t seed);

/*
 * Trains all layers on 1 to @NAME@_BATCH samples, inputs[samples][@NAME@_FEATURES] and labels[samples]. The rate is for the
 * mean over the samples. The first step finds the ranges of the quantizers on its samples before.
 * Writes the mean loss of each layer to losses[@NAME@_LAYERS], unless that is NULL.
 */
@name@_status @name@_train_step(void *state, void *arena, const @name@_input *inputs, const int32_t *labels,
    size_t samples, float learning_rate, float *losses);

/*
 * Tells that all training data has been seen once: the weight of later layers' errors grows by @lambda_step@.
 */
@name@_status @name@_end_epoch(void *state);

/*
 * Writes scores[samples][@NAME@_CLASSES] of any number of samples; the largest is the class. A sample's scores do not depend
 * on those beside it.
 */
@name@_status @name@_infer(const void *state, void *arena, const @name@_input *inputs, size_t samples,
    float *scores);

/*
 * Writes the weights to weights[@NAME@_WEIGHTS].
 */
@name@_status @name@_export(const void *state, float *weights);

/*
 * Takes the weights from weights[@NAME@_WEIGHTS], rounded to 16 bits with a new scale for each channel. All else stays as it
 * is, the quantizers' ranges among it: copy the whole state to go on to the same bits.
 */
@name@_status @name@_import(void *state, const float *weights);

#ifdef __cplusplus
}
#endif

#endif
