# ngx-keel: the module, keeld and keelctl, and everything that proves them.
#   make            build/ngx_keel_module.so, build/keeld, build/keelctl
#   make demo       the whole path on real parts, on this machine
#   make test       all tests
#   make help       the rest
# What is missing on the machine is installed first, by one rule (see "deps").

BUILD   ?= build
PREFIX  ?= /usr/local
NGX_SRC ?= /usr/share/nginx/src
VERSION := 0.1.0

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL := /bin/bash

goals := $(or $(MAKECMDGOALS),all)
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif

# --- deps: what every other target needs -------------------------------------------------------------
# The included file is remade when a package of the sets that the goals need is missing; make then reads
# everything again, so that pkg-config is asked after its packages are there. Otherwise it costs one dpkg query.

sets := build
ifneq ($(filter test unit,$(goals)),)
sets += unit
endif
ifneq ($(filter bench,$(goals)),)
sets += unit bench lab
endif
ifneq ($(filter test fuzz,$(goals)),)
sets += fuzz
endif
ifneq ($(filter test demo soak conformance versions lab sanitize,$(goals)),)
sets += lab
endif
ifneq ($(filter lint format,$(goals)),)
sets += lint
endif

ifneq ($(filter-out clean help kubernetes,$(goals)),)
missing := $(shell .ci/deps missing $(sets) || echo unknown)
ifneq ($(missing),)
$(BUILD)/deps.mk: .ci/always
endif
$(BUILD)/deps.mk:
	@.ci/deps install $(sets)
	@mkdir -p $(@D) && echo '# $(sets)' > $@
.ci/always: ;
include $(BUILD)/deps.mk
endif

deps: ; @:

# --- C++ ----------------------------------------------------------------------------------------------

ifeq ($(missing),)
pkg = $(shell pkg-config $(1))
endif

core_packages    := jansson libcrypto libpcre2-8
keeld_packages   := jansson libssl libcrypto libpcre2-8 libcurl sqlite3 yaml-cpp spdlog fmt prometheus-cpp-core
# Time zones; the library comes without a pkg-config file.
keeld_libs       := -ldate-tz
keelctl_packages := jansson libcrypto libpcre2-8 libcurl fmt

# A machine with ccache compiles what it has compiled before in no time.
ifeq ($(origin CXX),default)
CXX := $(if $(shell command -v ccache),ccache )g++
endif

CXXFLAGS ?= -O2 -g
warnings := -Wall -Wextra -Werror
common    = -std=c++20 $(CXXFLAGS) $(warnings) -fPIC -pthread -Isrc -DKEEL_VERSION='"$(VERSION)"'
# g++ 12 takes the allocator of coroutine frames for a mismatch of new and delete: a false alarm.
asio     := -DBOOST_ASIO_SEPARATE_COMPILATION -DBOOST_BEAST_SEPARATE_COMPILATION -DBOOST_ASIO_NO_DEPRECATED \
            -Wno-mismatched-new-delete

find = $(shell [ -d $(1) ] && find $(1) -name '$(2)' | LC_ALL=C sort)
objs = $(patsubst %.cc,$(BUILD)/obj/%.o,$(1))

core_src    := $(call find,src/core,*.cc)
keeld_src   := $(call find,src/keeld,*.cc)
keelctl_src := $(call find,src/keelctl,*.cc)
unit_src    := $(call find,t/unit,*.cc)
live_src    := $(call find,t/cluster,*.cc)
bench_src   := $(call find,t/bench,*.cc)
fuzz_src    := $(call find,t/fuzz,*_fuzz.cc)
keeld_lib   := $(filter-out src/keeld/main.cc,$(keeld_src))
keelctl_lib := $(filter-out src/keelctl/main.cc,$(keelctl_src))

compile = @mkdir -p $(@D) && echo "  c++  $<" && $(CXX) $(common) $(1) -MMD -MP -c -o $@ $<
link    = @mkdir -p $(@D) && echo "  link $@" && $(CXX) $(CXXFLAGS) -pthread -o $@ $(filter %.o %.a,$^) $(LDFLAGS) $(1)

$(BUILD)/obj/src/core/%.o: src/core/%.cc
	$(call compile,$(core_flags))
$(BUILD)/obj/src/keeld/%.o: src/keeld/%.cc
	$(call compile,$(asio) $(keeld_flags))
$(BUILD)/obj/src/keelctl/%.o: src/keelctl/%.cc
	$(call compile,$(keelctl_flags))
$(BUILD)/obj/t/%.o: t/%.cc
	$(call compile,-It $(asio) $(keeld_flags))

core_flags    := $(call pkg,--cflags $(core_packages))
keeld_flags   := $(call pkg,--cflags $(keeld_packages))
keelctl_flags := $(call pkg,--cflags $(keelctl_packages))

$(BUILD)/libkeel_core.a: $(call objs,$(core_src))
	@rm -f $@ && ar rcs $@ $^
$(BUILD)/libkeeld.a: $(call objs,$(keeld_lib))
	@rm -f $@ && ar rcs $@ $^
$(BUILD)/libkeelctl.a: $(call objs,$(keelctl_lib))
	@rm -f $@ && ar rcs $@ $^

$(BUILD)/keeld: $(call objs,$(filter src/keeld/main.cc,$(keeld_src))) $(BUILD)/libkeeld.a $(BUILD)/libkeel_core.a
	$(call link,$(call pkg,--libs $(keeld_packages)) $(keeld_libs))
$(BUILD)/keelctl: $(call objs,$(filter src/keelctl/main.cc,$(keelctl_src))) $(BUILD)/libkeelctl.a $(BUILD)/libkeel_core.a
	$(call link,$(call pkg,--libs $(keelctl_packages)))
$(BUILD)/unit_tests: $(call objs,$(unit_src)) $(BUILD)/libkeeld.a $(BUILD)/libkeelctl.a $(BUILD)/libkeel_core.a
	$(call link,$(call pkg,--libs gtest_main $(keeld_packages)) $(keeld_libs))
# What t/cluster/test_client.py runs on a real API server.
$(BUILD)/cluster_tests: $(call objs,$(live_src)) $(BUILD)/libkeeld.a $(BUILD)/libkeel_core.a
	$(call link,$(call pkg,--libs gtest_main $(keeld_packages)) $(keeld_libs))
$(BUILD)/micro_bench: $(call objs,$(bench_src)) $(BUILD)/libkeeld.a $(BUILD)/libkeel_core.a
	$(call link,$(call pkg,--libs benchmark $(keeld_packages)) $(keeld_libs) -lbenchmark_main)

# A program appears in "all" from the day that it has a main.
programs := $(if $(filter src/keeld/main.cc,$(keeld_src)),$(BUILD)/keeld) $(if $(keelctl_src),$(BUILD)/keelctl)

# --- the nginx module ---------------------------------------------------------------------------------
# nginx builds it: configure of the installed nginx-dev with our config, objects below $(BUILD)/nginx, the
# distribution's tree untouched. Its sources and those of core lie in one shared object.

module_dep := $(wildcard config config.make *.cpp *.map t/bench/observe/*) $(call find,src/module,*.cpp) $(call find,src/module,*.h) \
              $(call find,src/core,*.cc) $(call find,src/core,*.h)

ifneq ($(wildcard config),)
programs += $(BUILD)/ngx_keel_module.so $(BUILD)/ngx_keel_publisher.so

# module_build DIR,CC-OPT,LD-OPT[,SOURCES,NAMES]: DIR/ngx_keel_NAME.so of each, objects in DIR/nginx
define module_build
$(1)/nginx/Makefile: $(4)config $$(wildcard $(4)config.make) $$(wildcard $$(NGX_SRC)/conf_flags)
	@echo "  configure nginx module $(1)" && mkdir -p $$(@D)
	@cd $$(NGX_SRC) && . ./conf_flags && ./configure "$$$${NGX_CONF_FLAGS[@]}" \
	    --with-cc-opt="$(2)" --with-ld-opt="$(3)" \
	    --add-dynamic-module=$$(CURDIR)$(4:%/=/%) --builddir=$$(abspath $$(@D)) > $$(abspath $$(@D))/configure.log 2>&1 \
	    || { tail -20 $$(abspath $$(@D))/configure.log; rm -f $$(abspath $$@); exit 1; }

# By rename: a running nginx has the old file mapped.
$(1)/ngx_keel_$(firstword $(5) module).so: $(1)/nginx/Makefile $$(module_dep)
	@echo "  nginx module $(1)"
	@$$(MAKE) --no-print-directory -f $$(abspath $(1))/nginx/Makefile -C $$(NGX_SRC) modules > $(1)/nginx/make.log 2>&1 \
	    || { grep -E -A8 'error|Error|undefined' $(1)/nginx/make.log | head -60; exit 1; }
	@for part in $(or $(5),module publisher); do \
	    install -m 644 $(1)/nginx/ngx_keel_$$$$part.so $(1)/new.so && mv $(1)/new.so $(1)/ngx_keel_$$$$part.so || exit 1; \
	done
endef

module_cc := $$$$(dpkg-buildflags --get CFLAGS) -fPIC $$$$(dpkg-buildflags --get CPPFLAGS)
module_ld := $$$$(dpkg-buildflags --get LDFLAGS) -fPIC
$(eval $(call module_build,$(BUILD),$(module_cc),$(module_ld)))
# The table alone, for the figure observe-cost.
$(eval $(call module_build,$(BUILD)/bench,$(module_cc),$(module_ld),t/bench/observe/,bench_module))
# For nginx as it is installed; t/module/sanitized/nginx starts it with what the sanitizers need.
sanitizers := -fsanitize=address,undefined -fno-sanitize=vptr
$(eval $(call module_build,$(BUILD)/sanitized,-O1 -g -fPIC -fno-omit-frame-pointer -fno-sanitize-recover=undefined $(sanitizers),-fPIC $(sanitizers)))

# The part that nginx's helper process alone opens (libcurl and what it drags in); nginx's make built it along.
$(BUILD)/ngx_keel_publisher.so: $(BUILD)/ngx_keel_module.so ;
endif

all: $(programs) ;

-include $(shell [ -d $(BUILD)/obj ] && find $(BUILD)/obj -name '*.d')

# --- fuzz targets: every t/fuzz/X_fuzz.cc against core and parts of keeld, corpus in t/fuzz/corpus/X ------------------------

fuzz_flags := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
# The parts of keeld that read what others write and need neither loop nor network for it.
fuzz_keeld := src/keeld/api/action.cc src/keeld/cache/answers.cc src/keeld/cluster/objects.cc \
              src/keeld/registry/content.cc src/keeld/registry/manifest_parts.cc
fuzz_obj   := $(patsubst %.cc,$(BUILD)/fuzz/obj/%.o,$(core_src) $(fuzz_keeld))
fuzzers    := $(patsubst t/fuzz/%.cc,$(BUILD)/fuzz/%,$(fuzz_src))

$(BUILD)/fuzz/obj/%.o: %.cc
	@mkdir -p $(@D) && echo "  fuzz $<" && clang++ -std=c++20 -O1 -g $(warnings) -Isrc -It $(core_flags) $(fuzz_flags) -MMD -MP -c -o $@ $<
$(fuzzers): $(BUILD)/fuzz/%: $(BUILD)/fuzz/obj/t/fuzz/%.o $(fuzz_obj)
	@echo "  link $@" && clang++ -fsanitize=fuzzer,address,undefined -o $@ $^ $(call pkg,--libs $(core_packages))
-include $(shell [ -d $(BUILD)/fuzz/obj ] && find $(BUILD)/fuzz/obj -name '*.d')

# --- what people run ------------------------------------------------------------------------------------

export KEEL_BUILD := $(abspath $(BUILD))

# Kubernetes is built once per machine, outside the checkout.
kubernetes:
	@t/k8s/build

test_programs := $(programs) $(if $(unit_src),$(BUILD)/unit_tests) $(if $(live_src),$(BUILD)/cluster_tests) $(fuzzers) \
    $(BUILD)/sanitized/ngx_keel_module.so

test: $(test_programs) kubernetes
	@t/run

# The whole suite of the module under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: $(programs) $(BUILD)/sanitized/ngx_keel_module.so
	@t/run sanitized

unit: $(if $(unit_src),$(BUILD)/unit_tests)
	@$(if $(unit_src),$(BUILD)/unit_tests --gtest_brief=1,echo no unit tests)

# Every nginx that the module is for, not only the installed one.
versions:
	@t/versions/run

# What `make test` runs a part of, whole: nothing is different with the module.
conformance: $(BUILD)/ngx_keel_module.so
	@KEEL_CONFORMANCE=all t/run conformance

# SECONDS: for each target. (Bash has a variable of that name, so only what the caller says counts.)
fuzz_seconds := $(if $(filter command line environment,$(origin SECONDS)),$(SECONDS),120)
fuzz: $(fuzzers)
	@for target in $(fuzzers); do t/fuzz/run "$$target" $(fuzz_seconds) || exit 1; done

demo: $(programs) kubernetes
	@t/demo/run $(if $(KEEP),--keep) $(if $(CLUSTER),--cluster '$(CLUSTER)') $(if $(CACHE),--cache '$(CACHE)') $(if $(YES),--yes)

bench: $(programs) $(BUILD)/bench/ngx_keel_bench_module.so $(if $(bench_src),$(BUILD)/micro_bench) kubernetes
	@t/bench/run $(if $(ONLY),--only '$(ONLY)')

lint:
	@clang-format --dry-run -Werror $(core_src) $(keeld_src) $(keelctl_src) $(unit_src) $(live_src) $(fuzz_src) \
	    $(call find,src,*.h) $(call find,src,*.cpp)
format:
	@clang-format -i $(core_src) $(keeld_src) $(keelctl_src) $(unit_src) $(live_src) $(fuzz_src) \
	    $(call find,src,*.h) $(call find,src,*.cpp)

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/lib/nginx/modules \
	    $(DESTDIR)$(PREFIX)/share/ngx-keel
	install -m 755 $(BUILD)/keeld $(DESTDIR)$(PREFIX)/sbin/keeld
	install -m 755 $(BUILD)/keelctl $(DESTDIR)$(PREFIX)/bin/keelctl
	install -m 644 $(filter %.so,$(programs)) $(DESTDIR)$(PREFIX)/lib/nginx/modules/
	cp -r conf/. $(DESTDIR)$(PREFIX)/share/ngx-keel/

clean:
	rm -rf $(BUILD)

help:
	@echo 'make                     $(BUILD)/ngx_keel_module.so, $(BUILD)/keeld, $(BUILD)/keelctl'
	@echo 'make demo                the whole path on this machine, from a pushed tag to proven pods (needs root)'
	@echo '  KEEP=1                   leave it running and say how to look around'
	@echo '  CLUSTER=FILE CACHE=HOST:PORT YES=1   on the cluster of that kubeconfig'
	@echo 'make test                all tests; the last line is the sum'
	@echo 'make bench [ONLY=a,b]    the figures, also in $(BUILD)/bench.json'
	@echo 'make unit                unit tests alone'
	@echo 'make conformance         the distribution conformance suite, nginx'"'"'s own tests, 10,000 requests: with and without the module'
	@echo 'make sanitize            the tests of the module under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make versions            the module built for and tried with every supported nginx'
	@echo 'make fuzz [SECONDS=s]    each fuzz target for that many seconds, 120 by default'
	@echo 'make lint, make format   clang-format'
	@echo 'make install DESTDIR= PREFIX='
	@echo 'make clean               removes $(BUILD)'

.PHONY: all deps kubernetes test unit conformance versions sanitize fuzz demo bench lint format install clean help
