#include "backends/cpu/attention_turns.h"

#include <stdatomic.h>

#include "core/base/checked.h"
#include "core/base/system.h"

static _Atomic int32_t *turn_of(const struct lt_attention_grad *g, int64_t head, int64_t row0)
{
    return g->turns + head * lt_div_up(g->rows, LT_ATTENTION_TILE) + row0 / LT_ATTENTION_TILE;
}

int64_t lt_attention_last_row(const struct lt_attention_grad *g, int64_t key_end)
{
    return g->window > 0 ? lt_min_i64(g->rows, key_end - 1 + g->window) : g->rows;
}

bool lt_attention_turn_take(const struct lt_attention_grad *g, int64_t head, int64_t row0)
{
    int64_t first_key = g->window > 0 ? lt_max_i64(0, row0 + 1 - g->window) : 0;
    if (first_key >= g->key_begin)
        return true;
    if (g->turns)
        while (atomic_load_explicit(turn_of(g, head, row0), memory_order_acquire) < g->key_begin)
            lt_thread_yield();
    return false;
}

void lt_attention_turn_pass(const struct lt_attention_grad *g, int64_t head, int64_t row0)
{
    if (g->turns)
        atomic_store_explicit(turn_of(g, head, row0), (int32_t)g->key_end, memory_order_release);
}
