/* Synthetic weights: a model with the memory, the formats and the arithmetic of a trained one, and no
 * checkpoint.
 *
 * Matrices have a standard deviation near 0.02 (4-bit codes are uniform, which is how NF4 codes of a
 * normally distributed weight come out; block scales are those of such a weight), norm weights are 1 and
 * biases 0, so that activations and gradients stay finite through any number of layers.  The bytes are a
 * function of the seed and of the tensor's number alone: the same for any number of threads. */
#ifndef LT_MODELS_WEIGHT_SYNTHETIC_H
#define LT_MODELS_WEIGHT_SYNTHETIC_H

#include "models/model_load.h"

struct lt_synthetic_options {
    /* Of every matrix; a quantized one of the linear layers only, as lt_model_load does it: the embedding,
     * the head and tensors that are trained are BF16 then. */
    enum lt_weight_format format;
    bool double_quant; /* NF4 and FP4 */
    uint64_t seed;
    int threads; /* below 1: one */
};

/* Bytes of memory for one weight: elements and scales. */
size_t lt_synthetic_weight_bytes(enum lt_weight_format format, int64_t rows, int64_t cols, bool double_quant);
/* Fills `memory` (that many bytes, aligned to 64) and makes *w the matrix [rows, cols] in it; `stream`
 * numbers the tensors. */
void lt_synthetic_weight(struct lt_weight *w, void *memory, int64_t rows, int64_t cols,
                         const struct lt_synthetic_options *opt, uint32_t stream);

/* ---- matrices of the decoder layers in a file, from which an engine streams them ---- */

/* Says how every matrix will be stored, and marks those as streamed from `file`, which is borrowed and may be opened
 * later; NULL: takes the marks away.  After tensors are marked trainable (those are left out), before the engine is created.  Returns the bytes of the file. */
uint64_t lt_synthetic_stream(struct lt_model *model, const struct lt_synthetic_options *opt,
                             const struct lt_file_map *file);
/* Writes the file for the marked tensors: as lt_synthetic_fill would make them, distinct bytes for each. */
enum lt_status lt_synthetic_store(const struct lt_model *model, const struct lt_synthetic_options *opt,
                                  const char *path, void (*progress)(void *user, int done, int total),
                                  void *user, struct lt_error *err) LT_MUST_USE;

/* Exact bytes that lt_synthetic_fill will hold; nothing is mapped and nothing else needed meanwhile. */
void lt_synthetic_memory(const struct lt_model *model, const struct lt_synthetic_options *opt,
                         struct lt_model_memory *mem);
/* Stands in for lt_model_load: fills tensor->weight and tensor->vector of all but streamed tensors, once per model and after tensors
 * are marked trainable.  LT_ERR_NOMEM, or LT_ERR_CANCELLED after lt_cancel_request(): the model can then
 * only be destroyed. */
enum lt_status lt_synthetic_fill(struct lt_model *model, const struct lt_synthetic_options *opt,
                                 void (*progress)(void *user, int done, int total), void *user,
                                 struct lt_error *err) LT_MUST_USE;

#endif
