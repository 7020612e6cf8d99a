# The one make file.  Sources are found by folder; configure writes config.mk.  GNU make 4.2 or later.
#
#   make                programs, in the build folder
#   make test           everything but the long tests;  make test-full: those too
#   make check-list     the tests there are
#   make demo           a small fine-tuning run from data to text
#   make asan-test ubsan-test tsan-test     the tests under a sanitizer, each in a folder build-...
#   make lint format compdb install uninstall clean dist-clean
#
# DEV=1: strict warnings are errors.  V=1: show commands.  TESTS="tests/unit/test_x.c ...": only these.
# Missing packages are installed first; NO_INSTALL=1 only says which.

here := $(realpath $(CURDIR))
abs_srcdir := $(patsubst %/,%,$(dir $(realpath $(lastword $(MAKEFILE_LIST)))))
srcdir := $(if $(filter $(here),$(abs_srcdir)),.,$(abs_srcdir))

.SUFFIXES:
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.PHONY: all test test-full test-programs check-list demo asan-test ubsan-test tsan-test compdb install \
	uninstall lint format clean dist-clean FORCE
all:

# ---- configuration ---------------------------------------------------------------------------------------

# These goals need no configured folder.
unconfigured := format clean dist-clean asan-test ubsan-test tsan-test
ifneq ($(filter-out $(unconfigured),$(or $(MAKECMDGOALS),all)),)
include config.mk
endif

# Exit status 3 of configure: packages are missing, their keys are in config.missing.
configure = sh $(srcdir)/configure $(CONFIGURE_ARGS)
config.mk: $(srcdir)/configure
	@$(configure) || { test $$? = 3 && sh $(srcdir)/scripts/install-deps $$(cat config.missing) && $(configure); }

# ---- sources ---------------------------------------------------------------------------------------------

find_sources = $(sort $(patsubst $(srcdir)/%,%,$(wildcard $(addprefix $(srcdir)/,$(1)))))

# A kernel file's name ends in its instruction set, which decides its flags (ISA_... in config.mk).  Files
# for a set that the compiler does not know are left out; config.h says so to the dispatcher.
all_isas := avx2 avx512 avx512bf16 amx neonbf16
kernel_dir_x86_64 := backends/cpu/x86/*.c
kernel_dir_aarch64 := backends/cpu/arm/*.c
kernel_sources := $(filter-out $(foreach i,$(filter-out $(ISAS),$(all_isas)),%_$(i).c), \
	$(call find_sources,$(kernel_dir_$(ARCH))))
isa_flags = $(if $(filter backends/cpu/x86/% backends/cpu/arm/%,$(1)),\
	$(ISA_$(lastword $(subst _, ,$(basename $(notdir $(1)))))))

lib_sources := $(call find_sources,core/*/*.c quant/*.c models/*.c backends/*.c backends/cpu/*.c \
	backends/cpu/ref/*.c $(if $(filter 1,$(HAVE_VULKAN)),backends/vulkan/*.c)) $(kernel_sources)
shaders := $(basename $(notdir $(call find_sources,backends/vulkan/shaders/*.comp)))
main_sources := $(call find_sources,tools/lora_*.c)
tool_sources := $(filter-out $(main_sources),$(call find_sources,tools/*.c))
support_sources := $(call find_sources,tests/support/*.c)
test_sources := $(call find_sources,$(addsuffix /test_*.c,$(addprefix tests/,unit check grad golden corpus fault)))
test_scripts := $(call find_sources,tests/e2e/*.sh)
all_sources := $(lib_sources) $(main_sources) $(tool_sources) $(support_sources) $(test_sources)

# tools/lora_foo_bar.c is the program lora-foo-bar.
program_name = $(subst _,-,$(basename $(notdir $(1))))
programs := $(foreach m,$(main_sources),$(call program_name,$(m)))
objects = $(patsubst %.c,obj/%.o,$(1))
test_programs = $(patsubst %.c,obj/%,$(1))

# ---- flags -----------------------------------------------------------------------------------------------

warnings := -Wall -Wextra
ifeq ($(DEV),1)
warnings += -Werror -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
	-Wold-style-definition -Wnested-externs -Wvla -Wundef -Wwrite-strings -Wpointer-arith \
	-Wimplicit-fallthrough -Wno-string-conversion
endif
# -ffp-contract=off: a*b+c is rounded twice everywhere, so that compilers and variants agree bit for bit.
compile_flags = -std=c11 -D_POSIX_C_SOURCE=200809L -I. -I$(srcdir) $(CPPFLAGS) -ffp-contract=off $(OPENMP) \
	$(warnings) $(CFLAGS)
# Tests also get the way back to the source tree.
own_flags = $(if $(filter tests/%,$(1)),-DLT_SRCDIR='"$(abs_srcdir)"' $(TEST_CFLAGS),$(call isa_flags,$(1)))
link = $(CC) $(CFLAGS) $(OPENMP) $(LDFLAGS) -o $@

quiet = $(if $(V),,@printf '  %-4s %s\n' $(1) '$(2)';)

# ---- build -----------------------------------------------------------------------------------------------

all: $(programs) liblora.a libloratools.a

# Stamps whose contents are what their dependents were built from: other flags compile again, another set
# of files makes the archives again.
obj/flags: stamp = $(CC) $(compile_flags) $(foreach i,$(ISAS),$(ISA_$(i)))
obj/sources: stamp = $(lib_sources) $(tool_sources)
obj/flags obj/sources: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(stamp)' | cmp -s - $@ || printf '%s\n' '$(stamp)' >$@

obj/%.o: $(srcdir)/%.c obj/flags
	@mkdir -p $(@D)
	$(call quiet,CC,$*.c)$(CC) $(compile_flags) $(call own_flags,$*.c) -MMD -MP -c -o $@ $<

archive = $(call quiet,AR,$@)rm -f $@ && ar rcs $@ $(filter %.o,$^)
liblora.a: $(call objects,$(lib_sources)) obj/sources
	$(archive)
libloratools.a: $(call objects,$(tool_sources)) obj/sources
	$(archive)

# Shaders: compiled by glslc, or the compiled ones of the tree; then words in a C file.
obj/spirv/%.spv: $(srcdir)/backends/vulkan/shaders/%.comp \
		$(wildcard $(srcdir)/backends/vulkan/shaders/*.glsl) $(srcdir)/scripts/shaders
	@mkdir -p $(@D)
	$(call quiet,SPV,$*.comp)sh $(srcdir)/scripts/shaders compile $* $@
obj/shaders.inc: $(patsubst %,obj/spirv/%.spv,$(shaders))
	$(call quiet,GEN,$@)sh $(srcdir)/scripts/shaders arrays $^ >$@
obj/backends/vulkan/vk_shaders.o: obj/shaders.inc

define program_rule
$(call program_name,$(1)): $(call objects,$(1)) libloratools.a liblora.a
	$$(call quiet,LD,$$@)$$(link) $$(filter %.o %.a,$$^) $(LIBS)
endef
$(foreach m,$(main_sources),$(eval $(call program_rule,$(m))))

$(call test_programs,$(test_sources)): %: %.o $(call objects,$(support_sources)) libloratools.a liblora.a
	$(call quiet,LD,$(@F))$(link) $(filter %.o %.a,$^) $(TEST_LIBS) $(LIBS)

# A Vulkan loader for tests and, where there is glslc, what takes the place of cooperative matrices below it.
shim := $(if $(filter 1,$(HAVE_VULKAN)),obj/tests/shim/vulkan_shim.so \
	$(if $(filter 1,$(HAVE_GLSLC)),obj/tests/shim/gemm_coopmat_emulated.spv))
obj/tests/shim/vulkan_shim.so: $(srcdir)/tests/shim/vulkan_shim.c $(srcdir)/backends/vulkan/vk_api.h obj/flags
	@mkdir -p $(@D)
	$(call quiet,LD,$(@F))$(CC) $(filter-out -fopenmp,$(compile_flags)) -fPIC -shared -o $@ $< -ldl
obj/tests/shim/gemm_coopmat_emulated.spv: $(srcdir)/backends/vulkan/shaders/gemm_coopmat.comp \
		$(wildcard $(srcdir)/backends/vulkan/shaders/*.glsl)
	@mkdir -p $(@D)
	$(call quiet,SPV,$(@F))glslc --target-env=vulkan1.1 -O -DEMULATED -o $@ $<

-include $(patsubst %.c,obj/%.d,$(all_sources))

# ---- tests -----------------------------------------------------------------------------------------------

TESTS ?= $(test_sources)
selected_programs = $(call test_programs,$(filter %.c,$(TESTS)))
selected_scripts = $(addprefix $(srcdir)/,$(if $(filter command environment,$(origin TESTS)), \
	$(filter %.sh,$(TESTS)),$(test_scripts)))
# Programs of another machine need an emulator (configure looks for one).
export LT_TEST_RUNNER ?= $(RUNNER)
test_env = LT_SRCDIR='$(abs_srcdir)' LT_BUILD='$(here)' PATH="$(here):$$PATH"
run_tests = $(test_env) sh $(srcdir)/tests/run $(selected_programs) --scripts $(selected_scripts)

test-programs: $(selected_programs) $(shim)

test: all test-programs
	@$(run_tests)

test-full: all test-programs
	@LT_TEST_FULL=1 LT_TEST_TIMEOUT=$${LT_TEST_TIMEOUT:-3600} $(run_tests) $(wildcard $(srcdir)/tests/interop/run)

check-list:
	@printf '%s\n' $(test_sources) $(test_scripts)

demo: all
	@$(test_env) sh $(srcdir)/demo/run.sh

# LeakSanitizer comes with AddressSanitizer.  OpenBLAS is not instrumented, so ThreadSanitizer is told to
# look at our own code only, and Archer (of libomp, hence clang) tells it how OpenMP threads synchronize.
san_asan = -fsanitize=address
san_ubsan = -fsanitize=undefined -fno-sanitize-recover=all
san_tsan = -fsanitize=thread
cc_tsan = --cc=$(or $(TSAN_CC),clang)
export ASAN_OPTIONS ?= detect_leaks=1:strict_string_checks=1
export UBSAN_OPTIONS ?= print_stacktrace=1
export TSAN_OPTIONS ?= ignore_noninstrumented_modules=1
ifneq ($(and $(ARCHER),$(findstring -fsanitize=thread,$(CFLAGS))),)
export OMP_TOOL_LIBRARIES ?= $(ARCHER)
endif
# Some kernels place programs where the sanitizers keep their tables.
no_aslr = $(shell setarch -R true 2>/dev/null && echo setarch -R)
asan-test ubsan-test tsan-test: %-test:
	@mkdir -p build-$*
	+@$(if $(no_aslr),LT_TEST_WRAPPER='$(no_aslr)') $(MAKE) --no-print-directory -C build-$* \
		-f $(abs_srcdir)/Makefile test \
		CONFIGURE_ARGS="$(cc_$*) CFLAGS='-O1 -g -fno-omit-frame-pointer $(san_$*)' LDFLAGS='$(san_$*)'"

# ---- sources as text -------------------------------------------------------------------------------------

lint: config.mk
	@CC='$(CC)' CPPFLAGS='-I$(here) $(CPPFLAGS) $(OPENMP)' ISAS='$(ISAS)' ARCH='$(ARCH)' \
		$(foreach i,$(ISAS),ISA_$(i)='$(ISA_$(i))') LT_SRCDIR='$(abs_srcdir)' \
		sh $(srcdir)/tests/run --scripts $(srcdir)/tests/lint/run

format:
	@sh $(srcdir)/tests/lint/format --fix

# compile_commands.json, one line a file.
json = $(subst ",\",$(subst \,\\,$(1)))
command_line = $(CC) $(compile_flags) $(call own_flags,$(1)) -c -o $(call objects,$(1)) $(abs_srcdir)/$(1)
comma := ,
compdb: config.mk
	@: $(file >compile_commands.json,[)
	@: $(foreach s,$(all_sources),$(file >>compile_commands.json,$(if $(filter-out $(s),$(firstword \
		$(all_sources))),$(comma)){"directory": "$(here)"$(comma) "file": "$(abs_srcdir)/$(s)"$(comma) \
		"command": "$(call json,$(call command_line,$(s)))"}))
	@: $(file >>compile_commands.json,])

# ---- installation ----------------------------------------------------------------------------------------

man_pages := $(wildcard $(srcdir)/docs/man/*.1)
installed = $(addprefix $(DESTDIR)$(BINDIR)/,$(programs)) \
	$(addprefix $(DESTDIR)$(MANDIR)/man1/,$(notdir $(man_pages)))

install: all
	install -d '$(DESTDIR)$(BINDIR)' '$(DESTDIR)$(MANDIR)/man1'
	$(if $(programs),install -m 755 $(programs) '$(DESTDIR)$(BINDIR)')
	$(if $(man_pages),install -m 644 $(man_pages) '$(DESTDIR)$(MANDIR)/man1')

uninstall:
	rm -f $(installed)

clean:
	rm -rf obj liblora.a libloratools.a $(programs) compile_commands.json

dist-clean: clean
	rm -rf build-asan build-ubsan build-tsan config.mk config.h config.log config.missing
	if [ -L Makefile ]; then rm -f Makefile; fi
