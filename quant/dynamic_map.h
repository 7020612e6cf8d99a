/* The 8-bit dynamic code maps of bitsandbytes and block-wise 8-bit quantization with them
 * ("8-bit optimizers via block-wise quantization", Dettmers et al. 2022). */
#ifndef LT_QUANT_DYNAMIC_MAP_H
#define LT_QUANT_DYNAMIC_MAP_H

#include <stdint.h>

extern const float lt_dynamic_map_signed[256];   /* ascending; [127] = 0, [255] = 1 */
extern const float lt_dynamic_map_unsigned[256]; /* ascending; [0] = 0, [255] = 1 */

/* Nearest code of s in an ascending 256-entry map by the CUDA rule (binary search from 127 in steps
 * 64…1, then the f32 midpoint to the neighbour on s's side; a tie stays, on an even index).  NaN: 0. */
uint8_t lt_dynamic_nearest(const float map[256], float s);

#endif
