#version 450
// Products with f32 arithmetic: gemm_tiles.glsl, gemm_registers.glsl.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

#define A_AT(m, k) ((k) * (BM + 1) + (m))
#define A_SIZE (BK * (BM + 1))
#define B_AT(k, n) ((k) * (BN + 1) + (n))
#define B_SIZE (BK * (BN + 1))
#include "gemm_tiles.glsl"
#include "gemm_registers.glsl"
