# SPDX-License-Identifier: GPL-3.0-or-later
# Builds, tests and installs kvsim and kvengine; `make help` lists what can be asked for and set.
# Sources are found by folder: a new file needs no edit here. Everything made lies in build/$(BUILD).

VERSION := 0.1.0

# ---- Settings: make NAME=VALUE (lines that begin with #: are shown by `make help`) -----------------------------------

#: BUILD=release        release, debug, asan (address + undefined) or tsan, each in build/$(BUILD); assertions are always on
BUILD ?= release
#: CC=gcc               or clang-14
ifeq ($(origin CC),default)
CC := gcc
endif
#: CFLAGS= LDFLAGS=     added after our own flags
CFLAGS ?=
LDFLAGS ?=
#: WERROR=0             1: a warning stops the build
WERROR ?= 0
#: CUDA=auto            1 or 0: kvengine with kernels for NVIDIA devices, or for the CPU only; CUDA_HOME=DIR says where CUDA is
CUDA ?= auto
CUDA_HOME ?= $(or $(patsubst %/bin/nvcc,%,$(shell command -v nvcc)),/usr/local/cuda)
CUDA_HOME := $(CUDA_HOME)
#: JOBS=(cores)         how many compilations, and how many tests, at a time
JOBS ?= $(shell nproc)
JOBS := $(JOBS)
#: ONLY=TEXT            `make test` runs the tests whose command contains TEXT
ONLY ?=
#: GOLDEN=DIR           the golden data, for `make golden` and `make test`
GOLDEN ?= $(wildcard ../shared/golden)
#: MEASURED=DIR         measured times of steps and kernels, for `make test`
MEASURED ?= $(wildcard ../shared/measured)
#: FUZZ_SECONDS=30      how long `make fuzz` spends on each target
FUZZ_SECONDS ?= 30
#: PREFIX=/usr/local    and DESTDIR=: where `make install` puts things
PREFIX ?= /usr/local
DESTDIR ?=
PKG_CONFIG ?= pkg-config

MAKEFLAGS += --no-builtin-rules $(if $(filter 0,$(MAKELEVEL)),-j$(JOBS))
export GOLDEN MEASURED ONLY

# ---- Sources and libraries -------------------------------------------------------------------------------------------

CORE_C   := $(wildcard sim/core/*.c sim/policies/*.c)
TRACE_C  := $(wildcard traces/*.c)
# What the command lines of both programs share.
SHELL_C  := $(addprefix sim/,program.c cli.c table.c csv.c output.c progress.c team.c manual.c interrupt.c)
SIM_C    := $(filter-out sim/kvsim.c $(SHELL_C),$(wildcard sim/*.c sim/workload/*.c sim/serve/*.c))
ENGINE_C := $(filter-out engine/kvengine.c,$(wildcard engine/*.c engine/*/*.c))
ENGINE_CU := $(wildcard engine/*/*.cu)
# Kernels are CUDA, and C++ to whoever emulates them; what asks a device is not.
KERNEL_CU := $(filter-out engine/cuda/gpu%,$(ENGINE_CU))
TEST_C   := $(wildcard tests/unit/test_*.c tests/laws/test_*.c)
TEST_CPP := $(wildcard tests/gpu/test_*.cpp)
GOLDEN_C := $(wildcard tests/golden/*.c)
VALIDATE_C := $(wildcard tests/validate/*.c)
BENCH_C  := $(wildcard tests/bench/bench_*.c)
FUZZ_C   := $(wildcard tests/fuzz/fuzz_*.c)
CLI_SH   := $(wildcard tests/cli/test_*.sh)
ALL_C    := $(wildcard $(foreach f,sim/ sim/*/ traces/ engine/ engine/*/ tests/*/,$f*.c))
ALL_TEXT := $(ALL_C) $(wildcard $(foreach f,sim/ sim/*/ traces/ engine/ engine/*/ tests/*/,$f*.h $f*.cu $f*.cuh))
PROGRAMS := kvsim $(if $(wildcard engine/kvengine.c),kvengine)

# By their pkg-config names. The core links no GSL; nor may kvengine, whose CUDA build the licence would not allow it.
TRACE_PKGS    := hdf5-serial libzstd zlib libxxhash
KVSIM_PKGS    := gsl inih jansson $(TRACE_PKGS)
KVENGINE_PKGS := inih jansson libpcre2-8 libutf8proc openblas $(TRACE_PKGS)
TEST_PKGS     := cmocka

# ---- Compilers and flags ---------------------------------------------------------------------------------------------

flags.release := -O2
flags.debug   := -O0
flags.asan    := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
flags.tsan    := -O1 -fno-omit-frame-pointer -fsanitize=thread
# What `make fuzz` builds with, clang only
flags.fuzz    := $(flags.asan) -fsanitize=fuzzer-no-link
ld.fuzz       := -fsanitize=fuzzer
ifndef flags.$(BUILD)
$(error BUILD=$(BUILD) is unknown; it is release, debug, asan or tsan)
endif
B := build/$(BUILD)

NVCC := $(wildcard $(CUDA_HOME)/bin/nvcc)
cuda_found := $(if $(NVCC),found $(NVCC),there is no $(CUDA_HOME)/bin/nvcc)
cuda_on := $(and $(ENGINE_CU),$(filter 1,$(CUDA:auto=$(if $(NVCC),1))))
cuda_used := $(if $(cuda_on),used,not used: $(if $(ENGINE_CU),CUDA=$(CUDA),there are no .cu sources))
ifeq ($(cuda_on):$(NVCC),1:)
$(error CUDA=1, but $(cuda_found); set CUDA_HOME=DIR or CUDA=0)
endif
ifeq ($(cuda_on),)
ENGINE_C := $(filter-out engine/cuda/%,$(ENGINE_C))
ENGINE_CU :=
endif

werror := $(filter 1,$(WERROR))
# -ffp-contract=off: a multiply and an add stay two roundings, or results would depend on compiler and machine.
c_flags := -std=c11 -D_GNU_SOURCE -I. -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes \
  -Wmissing-prototypes $(if $(werror),-Werror) -ffp-contract=off -g $(flags.$(BUILD))
ld_flags := $(filter -fsanitize=%,$(flags.$(BUILD))) $(ld.$(BUILD))
# Cubins for the cards with bf16 matrix units, PTX for later ones. The host stubs do without what would need libstdc++.
cu_arch := -gencode arch=compute_80,code=sm_80 -gencode arch=compute_89,code=sm_89 -gencode arch=compute_90,code=[sm_90,compute_90]
# What asks for wgmma is no PTX for later cards, and chosen at run time. Not -arch=sm_90a, which compiles for sm_90 too.
cu_arch_hopper := -gencode arch=compute_90a,code=sm_90a
cu_flags := -std=c++17 -O2 -g -I. \
  -Werror cross-execution-space-call $(if $(werror),-Werror all-warnings) \
  -Xcompiler -Wall,-Wextra,-Wshadow,-Wconversion,-ffp-contract=off \
  -Xcompiler -fno-exceptions,-fno-rtti,-fno-threadsafe-statics,-fno-asynchronous-unwind-tables
cpp_flags := -std=c++17 -O2 -g -I. -DKV_EMULATED -fno-strict-aliasing -Wno-unknown-pragmas -Wno-psabi $(filter -fsanitize=%,$(flags.$(BUILD))) -Wall -Wextra -Wshadow $(if $(werror),-Werror) -ffp-contract=off
cuda_libs := -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcudart_static -lcublasLt -ldl -lrt -lpthread

# ---- Targets ---------------------------------------------------------------------------------------------------------

.PHONY: all $(PROGRAMS) test golden bench gpu-check validate fuzz fuzz-run demo docs install deps deps-check format lint help clean FORCE
.DELETE_ON_ERROR:
.SECONDARY:
ifneq ($(filter clean,$(MAKECMDGOALS)),)
.NOTPARALLEL:
endif

all: $(PROGRAMS) ## the programs that have sources (this is what a bare `make` does)
$(PROGRAMS): %: $(B)/%

# What a command line needs beyond the build is installed in one go with it.
goal = $(filter $1,$(MAKECMDGOALS))
deps_for := $(strip $(if $(findstring clang,$(CC)),clang,$(filter gcc,$(CC))) build $(if $(cuda_on),cuda) $(filter fuzz,$(BUILD)) \
  $(if $(call goal,deps test lint compile_commands.json),test) $(if $(call goal,deps demo),demo) $(call goal,lint docs))
deps: deps-check ## install what building, tests and demo need (root on Debian or Ubuntu), or print the command that does
	@echo "deps: what $(deps_for) needs is here"
deps-check:
	@sh .ci/deps.sh $(deps_for)

# Flags lie in files that the compiler reads by itself (@FILE), rewritten only when their text changes. What is made with
# them depends on them: so a change of flags, compiler or list of sources rebuilds what it concerns. The text is put
# together when the file is made, for only then are pkg-config and the compiler sure to be there.
flag_files := $(addprefix $(B)/,compiler sources all.cflags engine.cflags test.cflags version.cflags cu.flags cu_hopper.flags \
  kvsim.libs kvengine.libs test.libs cpp.flags)
$(B)/compiler:       text = $(shell $(CC) --version | head -n 1)
$(B)/sources:        text = $(CORE_C) / $(TRACE_C) / $(SHELL_C) / $(SIM_C) / $(ENGINE_C) $(ENGINE_CU)
$(B)/all.cflags:     text = $(c_flags)
$(B)/all.cflags:     ask = --cflags $(KVSIM_PKGS)
$(B)/all.cflags:     last = $(CFLAGS)
$(B)/engine.cflags:  text = -O3 $(if $(cuda_on),-DKV_CUDA=1 -isystem $(CUDA_HOME)/include)
$(B)/engine.cflags:  ask = --cflags $(KVENGINE_PKGS)
$(B)/test.cflags:    ask = --cflags $(TEST_PKGS)
$(B)/version.cflags: text = -DKV_VERSION=\"$(VERSION)\"
$(B)/cu.flags:       text = $(cu_flags) $(cu_arch)
$(B)/cu_hopper.flags: text = $(cu_flags) $(cu_arch_hopper)
$(B)/cpp.flags:      text = $(cpp_flags)
$(B)/%.libs:         text = $(ld_flags)
$(B)/%.libs:         last = -lm -pthread $(LDFLAGS)
$(B)/kvsim.libs:     ask = --libs $(KVSIM_PKGS)
$(B)/kvengine.libs:  ask = --libs $(KVENGINE_PKGS)
$(B)/kvengine.libs:  text = $(ld_flags) $(if $(cuda_on),$(cuda_libs))
# GSL brings a CBLAS of its own, a plain one: OpenBLAS stands before it.
$(B)/test.libs:      text = $(ld_flags) $(shell $(PKG_CONFIG) --libs openblas 2>/dev/null)
$(B)/test.libs:      ask = --libs $(KVSIM_PKGS) $(KVENGINE_PKGS) $(TEST_PKGS)
$(flag_files): FORCE | deps-check
	@mkdir -p $(@D)
	@asked=$$($(if $(ask),$(PKG_CONFIG) $(ask) 2>/dev/null)) || \
	  { echo "error: '$(PKG_CONFIG) $(ask)' fails: a library is missing; run 'make deps'" >&2; exit 1; }; \
	printf '%s\n' '$(text)' "$$(echo "$$asked" | sed 's/\(^\| \)-I/\1-isystem/g')" '$(last)' >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

objects = $(patsubst %,$(B)/%.o,$(basename $1))
$(B)/%.o: %.c $(B)/all.cflags $(B)/compiler
	@mkdir -p $(@D)
	$(CC) $(patsubst %,@%,$(filter %.cflags,$^)) -MMD -MP -c -o $@ $<
# A kernel may have a C twin of the same name beside it.
$(B)/%.cu.o: %.cu $(B)/cu.flags
	@mkdir -p $(@D)
	$(NVCC) --options-file $(filter %.flags,$^) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
$(B)/%_hopper.cu.o: %_hopper.cu $(B)/cu_hopper.flags
	@mkdir -p $(@D)
	$(NVCC) --options-file $(filter %.flags,$^) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

# Flags that only some objects need.
$(call objects,$(shell grep -lw KV_VERSION $(ALL_C) /dev/null)): $(B)/version.cflags
$(call objects,$(filter engine/%,$(ALL_C))): $(B)/engine.cflags
$(call objects,$(TEST_C)): $(B)/test.cflags
$(call objects,$(shell grep -l '"engine/' $(TEST_C) $(FUZZ_C) $(BENCH_C) /dev/null)): $(B)/engine.cflags

$(B)/libkvcore.a: $(call objects,$(CORE_C))
$(B)/libkvtrace.a: $(call objects,$(TRACE_C))
$(B)/libkvshell.a: $(call objects,$(SHELL_C))
$(B)/libkvsim.a: $(call objects,$(SIM_C))
$(B)/libkvengine.a: $(call objects,$(ENGINE_C)) $(ENGINE_CU:%=$(B)/%.o)
$(B)/lib%.a: $(B)/sources
	@rm -f $@
	ar rcs $@ $(filter %.o,$^)

link = $(CC) -o $@ $(filter %.o,$^) $(filter %.a,$^) @$(filter %.libs,$^)
common_libs := $(B)/libkvtrace.a $(B)/libkvshell.a $(B)/libkvcore.a
sim_libs := $(B)/libkvsim.a $(common_libs)
$(B)/kvsim: $(B)/sim/kvsim.o $(sim_libs) $(B)/kvsim.libs
	$(link)
$(B)/kvengine: $(B)/engine/kvengine.o $(B)/libkvengine.a $(common_libs) $(B)/kvengine.libs
	@echo "CUDA: $(cuda_found); $(cuda_used)"
	$(link)
$(B)/golden: $(call objects,$(GOLDEN_C)) $(sim_libs) $(B)/kvsim.libs
	$(link)
test_programs  := $(TEST_C:%.c=$(B)/%)
gpu_tests := $(TEST_CPP:%.cpp=$(B)/%) $(B)/tests/gpu/test_backend $(B)/tests/gpu/test_steps
emulated_engine := $(if $(KERNEL_CU),$(B)/tests/gpu/kvengine)
fuzz_programs  := $(FUZZ_C:%.c=$(B)/%)
bench_programs := $(BENCH_C:%.c=$(B)/%)
validate_programs := $(VALIDATE_C:%.c=$(B)/%)
$(test_programs): $(B)/test.libs
$(fuzz_programs): $(B)/test.libs $(if $(filter fuzz,$(BUILD)),,$(B)/tests/fuzz/replay.o)
$(bench_programs) $(validate_programs): $(B)/test.libs
$(test_programs) $(fuzz_programs) $(bench_programs) $(validate_programs): %: %.o $(B)/libkvengine.a $(sim_libs)
	$(link)

# The CUDA backend on the host: its kernels by tests/gpu/emulate.cpp, the device by tests/gpu/device.cpp. Sanitizers
# watch the kernels, but not him who jumps between their threads.
emulated := $(KERNEL_CU:%.cu=$(B)/emulated/%.o) $(patsubst %.cpp,$(B)/%.o,$(filter-out $(TEST_CPP),$(wildcard tests/gpu/*.cpp))) \
  $(call objects,$(wildcard engine/cuda/*.c))
$(call objects,$(wildcard engine/cuda/*.c)): $(B)/engine.cflags
$(B)/emulated/%.o: %.cu $(B)/cpp.flags $(B)/compiler
	@mkdir -p $(@D)
	$(CXX) @$(B)/cpp.flags -MMD -MP -c -o $@ -x c++ $<
$(B)/tests/gpu/emulate.o: not_watched := -fno-sanitize=all
$(B)/tests/gpu/%.o: tests/gpu/%.cpp $(B)/cpp.flags $(B)/compiler
	@mkdir -p $(@D)
	$(CXX) @$(B)/cpp.flags $(not_watched) -MMD -MP -c -o $@ $<
# The suite that the CPU backend passes, for the CUDA backend.
tested_c := $(addprefix $(B)/tests/gpu/,test_backend.o test_steps.o on_device/test_backend.o on_device/test_steps.o)
$(filter %backend.o,$(tested_c)): tests/unit/test_backend.c
$(filter %steps.o,$(tested_c)): tests/gpu/test_steps.c
$(filter $(B)/tests/gpu/on_device/%,$(tested_c)): on_it := -DKV_ON_DEVICE
$(tested_c): $(B)/all.cflags $(B)/test.cflags $(B)/engine.cflags $(B)/compiler
	@mkdir -p $(@D)
	$(CC) $(patsubst %,@%,$(filter %.cflags,$^)) -DKV_TESTED_CUDA $(on_it) -MMD -MP -c -o $@ $(filter %.c,$^)
$(gpu_tests): %: %.o $(emulated) $(B)/libkvengine.a $(sim_libs) $(B)/test.libs
	$(CXX) -o $@ $(filter %.o,$^) $(filter %.a,$^) @$(filter %.libs,$^)

# All of kvengine over the emulated device: --backend cuda where there is none.
$(B)/emulated/engine/host.o: engine/host.c $(B)/all.cflags $(B)/engine.cflags $(B)/compiler
	@mkdir -p $(@D)
	$(CC) $(patsubst %,@%,$(filter %.cflags,$^)) -DKV_CUDA=1 -MMD -MP -c -o $@ $<
$(B)/tests/gpu/kvengine: $(B)/engine/kvengine.o $(B)/emulated/engine/host.o $(emulated) $(B)/libkvengine.a $(common_libs) $(B)/kvengine.libs
	$(CXX) -o $@ $(filter %.o,$^) $(filter %.a,$^) @$(filter %.libs,$^)

# What gpu-check measures with, over the emulated device: so its script is tried where there is none.
check_programs := $(patsubst tests/gpu/%.c,%,$(filter-out tests/gpu/test_%,$(wildcard tests/gpu/*.c)))
emulated_check := $(if $(KERNEL_CU),$(check_programs:%=$(B)/tests/gpu/%))
$(emulated_check:=.o): $(B)/engine.cflags
$(emulated_check): %: %.o $(emulated) $(B)/libkvengine.a $(sim_libs) $(B)/test.libs
	$(CXX) -o $@ $(filter %.o,$^) $(filter %.a,$^) @$(filter %.libs,$^)

# The same tests, and benches, with the device itself.
on_device := $(if $(cuda_on),$(addprefix $(B)/tests/gpu/on_device/,$(check_programs) test_backend test_steps \
  $(patsubst tests/gpu/%.cpp,%,$(filter-out %/test_emulate.cpp,$(TEST_CPP)))))
$(B)/tests/gpu/on_device/%.o: tests/gpu/%.cpp $(B)/cpp.flags $(B)/compiler
	@mkdir -p $(@D)
	$(CXX) @$(B)/cpp.flags -UKV_EMULATED -MMD -MP -c -o $@ $<
$(B)/tests/gpu/on_device/%.o: tests/gpu/%.c $(B)/all.cflags $(B)/engine.cflags $(B)/compiler
	@mkdir -p $(@D)
	$(CC) $(patsubst %,@%,$(filter %.cflags,$^)) -MMD -MP -c -o $@ $<
$(on_device): %: %.o $(B)/libkvengine.a $(sim_libs) $(B)/test.libs
	$(CXX) -o $@ $(filter %.o,$^) $(filter %.a,$^) @$(filter %.libs,$^) $(cuda_libs)

-include $(shell find $(B) -name '*.d' 2>/dev/null)

# Each test is a command line that speaks TAP.
golden_test := $(if $(GOLDEN),'$(B)/golden --tap "$$GOLDEN"','echo "no golden data; GOLDEN=DIR says where they are"; exit 77')
fuzz_names := $(patsubst tests/fuzz/fuzz_%.c,%,$(FUZZ_C))
test: $(PROGRAMS) $(test_programs) $(gpu_tests) $(emulated_engine) $(emulated_check) $(fuzz_programs) $(if $(GOLDEN_C),$(B)/golden) ## build and run all tests
	@KVSIM="$$PWD/$(B)/kvsim" KVENGINE="$$PWD/$(B)/kvengine" KVENGINE_EMULATED="$$PWD/$(B)/tests/gpu/kvengine" sh tests/run.sh -j $(JOBS) $(test_programs) $(gpu_tests) \
	  $(foreach n,$(fuzz_names),'$(B)/tests/fuzz/fuzz_$n tests/fuzz/corpus/$n') $(CLI_SH:%='sh %') $(if $(GOLDEN_C),$(golden_test))

golden: $(if $(GOLDEN),$(B)/golden) ## compare with the golden data in the folder GOLDEN
	@[ -n "$$GOLDEN" ] || { echo "error: no golden data; say where they are: make golden GOLDEN=DIR" >&2; exit 2; }
	$(B)/golden "$$GOLDEN"

bench: $(bench_programs) ## build and run the benchmarks, one after the other
	@for program in $(bench_programs); do echo "$$program"; $$program || exit; done

gpu-check: $(PROGRAMS) $(on_device) ## all that wants a device: kernels, engine, benches; a report into results/gpu-check
	$(if $(cuda_on),sh tests/gpu/check.sh $(B) results/gpu-check,@echo 'gpu-check: built without CUDA ($(cuda_found)); everything is skipped')

validate: $(validate_programs) $(B)/kvsim ## compare memory and serving with published measurements: tables of docs/VALIDATION.md
	@for program in $(validate_programs); do $$program || exit; done
	@for script in $(wildcard tests/validate/*.sh); do KVSIM=$(B)/kvsim sh $$script || exit; done

fuzz: ## fuzz each parser for FUZZ_SECONDS with clang's libFuzzer, starting from tests/fuzz/corpus
	@$(MAKE) --no-print-directory BUILD=fuzz CC=clang-14 fuzz-run
fuzz-run: $(fuzz_programs)
	@export PATH="$$PATH:/usr/lib/llvm-14/bin" UBSAN_OPTIONS=print_stacktrace=1; \
	for name in $(fuzz_names); do mkdir -p $(B)/corpus/$$name; \
	  $(B)/tests/fuzz/fuzz_$$name -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=$(B)/$$name- \
	    $(B)/corpus/$$name tests/fuzz/corpus/$$name || exit; done
	@echo "fuzz: $(words $(fuzz_names)) targets, nothing found; inputs that reach new code lie in $(B)/corpus"

demo: $(PROGRAMS) ## plan the quick-start scenario; record a small model that must find a key, replay it; draw both, into results/
	$(B)/kvsim plan configs/quickstart.ini -o results/quickstart
	$(B)/kvsim plot results/quickstart
	$(B)/kvengine record models/recall-870k --prompt-file traces/samples/needle.txt -n 3 --chunk 128 -w 32 --mark needle=389-394 \
	  --channels window_seen,column_sum,last_row,later_sum,key_norm -o results/needle.kvt.h5
	$(B)/kvsim replay results/needle.kvt.h5 --policy full --policy streaming:sink_size=4,recent_size=256 --policy tova \
	  --policy snapkv:when=postfill,window_size=32 --policy h2o:recent_size=32 --policy random --keep 10%,30%,60% -o results/needle
	$(B)/kvsim plot results/needle
	$(B)/kvengine run models/recall-870k --prompt-file traces/samples/needle.txt -n 3 --chunk 128 --policy full --policy random:keep=30% \
	  --policy snapkv:when=postfill,window_size=32,keep=30% --policy streaming:sink_size=4,recent_size=256

docs: $(PROGRAMS) ## rewrite the pages that come from tables, check the man pages
	$(B)/kvsim config template --markdown >docs/CONFIG.md.new && mv docs/CONFIG.md.new docs/CONFIG.md
	$(B)/kvsim policies --markdown >docs/POLICIES.md.new && mv docs/POLICIES.md.new docs/POLICIES.md
	for program in $(PROGRAMS); do $(B)/$$program --man >docs/$$program.1.new && mv docs/$$program.1.new docs/$$program.1; done
	mandoc -Tlint -Wwarning docs/*.1

install: all ## install the programs, presets, plot scripts and man pages
	install -d '$(DESTDIR)$(PREFIX)/bin'
	install $(PROGRAMS:%=$(B)/%) '$(DESTDIR)$(PREFIX)/bin'
	for file in $$(find models configs plots -type f); do \
	  install -D -m 644 "$$file" '$(DESTDIR)$(PREFIX)/share/kvsim'/"$$file" || exit; done
	for page in $(wildcard docs/*.1); do install -D -m 644 -t '$(DESTDIR)$(PREFIX)/share/man/man1' "$$page" || exit; done

compile_commands.json: $(filter %.cflags,$(flag_files)) FORCE ## for editors, clang-tidy and the like
	@flags=$$(cat $(filter %.cflags,$^) | tr '\n' ' ' | sed 's/[\\"]/\\&/g'); comma=; \
	{ echo '['; for file in $(ALL_C); do \
	  printf '%s{"directory": "%s", "file": "%s", "command": "$(CC) %s -c %s"}' "$$comma" "$$PWD" "$$file" "$$flags" "$$file"; \
	  comma=','; done; echo ']'; } >$@

# One file at a time: given several, clang-tidy 14 reports va_lists that are in order.
lint: compile_commands.json ## clang-tidy and cppcheck
	printf '%s\n' $(ALL_C) | xargs -P $(JOBS) -n 1 clang-tidy --quiet -p .
	cppcheck --quiet -j $(JOBS) --error-exitcode=1 --enable=warning,performance,portability --inline-suppr -I. \
	  -D_GNU_SOURCE -DKV_VERSION='""' $(ALL_C)

format: ## clang-format on every C, header and CUDA file
	@sh .ci/deps.sh format
	clang-format -i $(ALL_TEXT)

help: ## this text
	@echo 'Targets:'
	@sed -n 's/^\([a-z_.-]*\):.* ## /  \1\t/p' Makefile | awk -F '\t' '{ printf "%-24s%s\n", $$1, $$2 }'
	@echo 'Settings (make NAME=VALUE), with their defaults:'
	@sed -n 's/^#: /  /p' Makefile
	@echo 'CUDA: $(cuda_found); $(cuda_used)'

clean: ## remove everything made, in every variant; results stay
	rm -rf build compile_commands.json
