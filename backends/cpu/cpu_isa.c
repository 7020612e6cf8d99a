/* What the processor can run, and the ladder of kernel rungs. */
#include "backends/cpu/kernels.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "core/base/system.h"

#include "config.h"

static const char *const isa_names[] = {
    [LT_CPU_REF] = "ref",           [LT_CPU_AVX2] = "avx2",
    [LT_CPU_AVX512] = "avx512",     [LT_CPU_AVX512BF16] = "avx512bf16",
    [LT_CPU_AMX] = "amx",           [LT_CPU_NEON] = "neon",
    [LT_CPU_NEONBF16] = "neonbf16",
};

#if defined(__x86_64__)
/* Bits of cpuid leaves 1 and 7 (Intel SDM volume 2, CPUID) and of XCR0: a set of registers is usable only
 * when the system saves it. */
enum {
    LEAF1_ECX_FMA = 1 << 12,
    LEAF1_ECX_OSXSAVE = 1 << 27,
    LEAF1_ECX_F16C = 1 << 29,
    LEAF7_EBX_AVX2 = 1 << 5,
    LEAF7_EBX_AVX512F = 1 << 16,
    LEAF7_EBX_AVX512DQ = 1 << 17,
    LEAF7_EBX_AVX512BW = 1 << 30,
    LEAF7_EDX_AMX_BF16 = 1 << 22,
    LEAF7_EDX_AMX_TILE = 1 << 24,
    LEAF7_1_EAX_AVX512_BF16 = 1 << 5, /* subleaf 1 */
    XCR0_YMM = 0x6,
    XCR0_ZMM = 0xe6,
    XCR0_TILES = 0x60000
};
#define LEAF7_EBX_AVX512VL 0x80000000u

static bool has(unsigned value, unsigned bits)
{
    return (value & bits) == bits;
}

static bool x86_has(enum lt_cpu_isa isa)
{
    unsigned a, b1, c1, d1, b7, c7, d7, a71, b71, c71, d71, xcr0, xcr0_high;
    if (!__get_cpuid(1, &a, &b1, &c1, &d1) || !has(c1, LEAF1_ECX_OSXSAVE) ||
        !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7))
        return false;
    __asm__("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
    bool avx2 = has(c1, LEAF1_ECX_FMA | LEAF1_ECX_F16C) && has(b7, LEAF7_EBX_AVX2) && has(xcr0, XCR0_YMM);
    bool avx512 = avx2 && has(b7, LEAF7_EBX_AVX512F | LEAF7_EBX_AVX512DQ | LEAF7_EBX_AVX512BW) &&
                  has(b7, LEAF7_EBX_AVX512VL) && has(xcr0, XCR0_ZMM);
    /* The highest subleaf of leaf 7 is what its subleaf 0 has in EAX. */
    bool bf16 = avx512 && a >= 1 && __get_cpuid_count(7, 1, &a71, &b71, &c71, &d71) &&
                has(a71, LEAF7_1_EAX_AVX512_BF16);
    bool amx = bf16 && has(d7, LEAF7_EDX_AMX_TILE | LEAF7_EDX_AMX_BF16) && has(xcr0, XCR0_TILES);
    switch (isa) {
    case LT_CPU_AVX2:
        return LT_HAVE_AVX2 && avx2;
    case LT_CPU_AVX512:
        return LT_HAVE_AVX2 && LT_HAVE_AVX512 && avx512;
    case LT_CPU_AVX512BF16:
        return LT_HAVE_AVX2 && LT_HAVE_AVX512 && LT_HAVE_AVX512BF16 && bf16;
    case LT_CPU_AMX:
        return LT_HAVE_AVX2 && LT_HAVE_AVX512 && LT_HAVE_AVX512BF16 && LT_HAVE_AMX && amx &&
               lt_tiles_enable();
    default:
        return false;
    }
}
#endif

bool lt_cpu_isa_available(enum lt_cpu_isa isa)
{
    if (isa == LT_CPU_REF)
        return true;
#if defined(__x86_64__)
    return x86_has(isa);
#else
    /* NEON is part of every AArch64 processor. */
    return LT_HAVE_NEON &&
           (isa == LT_CPU_NEON || (isa == LT_CPU_NEONBF16 && LT_HAVE_NEONBF16 && lt_arm_has_bf16()));
#endif
}

const char *lt_cpu_isa_name(enum lt_cpu_isa isa)
{
    return (size_t)isa < sizeof isa_names / sizeof *isa_names ? isa_names[isa] : "?";
}

bool lt_cpu_isa_detect(enum lt_cpu_isa *isa, const char *request)
{
    enum lt_cpu_isa best = LT_CPU_REF;
    for (size_t i = 0; i < sizeof isa_names / sizeof *isa_names; i++) {
        bool available = lt_cpu_isa_available((enum lt_cpu_isa)i);
        if (available)
            best = (enum lt_cpu_isa)i;
        if (request && strcmp(request, isa_names[i]) == 0) {
            *isa = (enum lt_cpu_isa)i;
            return available;
        }
    }
    if (request)
        return false;
    *isa = best;
    return true;
}

void lt_cpu_kernels_init(struct lt_cpu_kernels *k, enum lt_cpu_isa isa)
{
    memset(k, 0, sizeof *k);
    k->isa = isa;
    lt_cpu_kernels_ref(k);
#if defined(__x86_64__) && LT_HAVE_AVX2
    if (isa >= LT_CPU_AVX2 && isa <= LT_CPU_AMX)
        lt_cpu_kernels_avx2(k);
#if LT_HAVE_AVX512
    if (isa >= LT_CPU_AVX512 && isa <= LT_CPU_AMX)
        lt_cpu_kernels_avx512(k);
#endif
#endif
#if LT_HAVE_NEON
    if (isa == LT_CPU_NEON || isa == LT_CPU_NEONBF16)
        lt_cpu_kernels_neon(k);
#endif
}
