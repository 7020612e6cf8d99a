#version 450
// Products of f16 factors with tiles in f16, half the shared memory: gemm_tiles.glsl, gemm_registers.glsl.  For devices
// with shaderFloat16.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require

#define A_AT(m, k) ((k) * (BM + 2) + (m))
#define A_SIZE (BK * (BM + 2))
#define B_AT(k, n) ((k) * (BN + 2) + (n))
#define B_SIZE (BK * (BN + 2))
#define F16_TILES
#include "gemm_tiles.glsl"
#include "gemm_registers.glsl"
