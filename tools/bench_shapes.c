#include "tools/bench_shapes.h"

#include <string.h>

struct shape {
    const char *name;
    int hidden, intermediate, layers, heads, kv_heads, vocab, positions;
    int tied;
};

static const struct shape shapes[] = {
    {"tiny", 64, 176, 2, 4, 2, 512, 2048, 1},
    {"smollm2-135m", 576, 1536, 30, 9, 3, 49152, 8192, 1},
    {"tinyllama-1.1b", 2048, 5632, 22, 32, 4, 32000, 2048, 0},
    {"llama-2-7b", 4096, 11008, 32, 32, 32, 32000, 4096, 0},
    {"llama-2-13b", 5120, 13824, 40, 40, 40, 32000, 4096, 0},
    {"llama-33b", 6656, 17920, 60, 52, 52, 32000, 2048, 0},
    {"llama-65b", 8192, 22016, 80, 64, 64, 32000, 2048, 0},
    {"llama-2-70b", 8192, 28672, 80, 64, 8, 32000, 4096, 0},
};

const char bench_shape_names[] =
    "tiny,smollm2-135m,tinyllama-1.1b,llama-2-7b,llama-2-13b,llama-33b,llama-65b,"
    "llama-2-70b";

json_t *bench_shape_config(const char *name, int64_t layers)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *s = &shapes[i];
        if (strcmp(s->name, name) != 0)
            continue;
        return json_pack(
            "{s:[s], s:s, s:i, s:i, s:I, s:i, s:i, s:i, s:i, s:b, s:f}", "architectures", "LlamaForCausalLM",
            "model_type", "llama", "hidden_size", s->hidden, "intermediate_size", s->intermediate,
            "num_hidden_layers", layers > 0 ? (json_int_t)layers : (json_int_t)s->layers,
            "num_attention_heads", s->heads, "num_key_value_heads", s->kv_heads, "vocab_size", s->vocab,
            "max_position_embeddings", s->positions, "tie_word_embeddings", s->tied, "rms_norm_eps", 1e-5);
    }
    return NULL;
}
