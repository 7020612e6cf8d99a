/* Calls of attention_bwd for one (sequence, kv head) that run at once take turns at the gradient of the queries.
 *
 * Each call has some keys and goes over the query heads and, within a head, over the tiles of rows that see its keys, in
 * ascending order.  A call follows the one with the keys before its own at a distance of a tile: what waits, waits for a
 * call that began earlier, so the earliest never waits. */
#ifndef LT_BACKENDS_CPU_ATTENTION_TURNS_H
#define LT_BACKENDS_CPU_ATTENTION_TURNS_H

#include "backends/cpu/kernels.h"

/* One past the last row that sees a key below `key_end`. */
int64_t lt_attention_last_row(const struct lt_attention_grad *g, int64_t key_end);

/* Before a head's tile of rows at row0 is touched: waits until the parts of all earlier keys are there.  True: there are
 * none, this call is the first. */
bool lt_attention_turn_take(const struct lt_attention_grad *g, int64_t head, int64_t row0);
/* Behind it. */
void lt_attention_turn_pass(const struct lt_attention_grad *g, int64_t head, int64_t row0);

#endif
