# chowk: `make` builds build/chowk; `make run` starts the shop; `make test` proves it; `make help` lists the rest.
# Sources are found by themselves: a new core/<layer>/<noun>.c, tests/unit/<layer>/<noun>_test.c,
# lua/chowk/<noun>.lua or spec/<noun>_spec.lua needs no line here.

SHELL   := /bin/bash
BUILD   ?= build
PREFIX  ?= /usr/local
CC      ?= gcc
V       ?= 0
Q       := $(if $(filter 1,$(V)),,@)

# ---- what it stands on (Debian 12) ------------------------------------------------------------------------
DEPS_BUILD := gcc libc6-dev make pkg-config libluajit2-5.1-dev luajit2 libuv1-dev node-llhttp libpq-dev libhiredis-dev libssl-dev libcurl4-openssl-dev
DEPS_RUN   := postgresql-15 redis-server tzdata
DEPS_TEST  := pgbouncer libcmocka-dev lua-busted lua-check lua-socket lua-dkjson openssl nginx-light python3-aiosmtpd libasan8 libubsan1 curl procps
DEPS_LINT  := clang-format clang
DEPS_FUZZ  := clang libclang-rt-14-dev
DEPS_SOAK  := wrk
DEPS_BENCH := wrk nginx-light libnginx-mod-http-lua lua-nginx-redis lua-cjson nodejs npm postgresql-15 redis-server

PKGS    := luajit libuv libpq hiredis openssl libcurl
# Not evaluated before `make deps` had its chance.
PKG_CFLAGS = $(shell pkg-config --cflags-only-I $(PKGS) | sed 's/-I/-isystem /g') -isystem /usr/share/include/llhttp
PKG_LIBS   = $(shell pkg-config --libs luajit libuv libpq hiredis libssl libcrypto libcurl) -lm

WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wswitch-enum -Wvla -Wcast-qual -Wpointer-arith -Werror
HARDEN  := -fstack-protector-strong -fPIE -fno-plt
CFLAGS  ?= -O2 -g
SAN     ?=
FORTIFY := $(if $(SAN),,-D_FORTIFY_SOURCE=2)
CFLAGS_ALL = -std=c11 -D_GNU_SOURCE -Icore $(WARN) $(HARDEN) $(FORTIFY) $(CFLAGS) $(SAN) $(PKG_CFLAGS) -MMD -MP
LDFLAGS_ALL = -pie -Wl,-z,relro,-z,now -rdynamic $(SAN) $(LDFLAGS)

SRC     := $(sort $(wildcard core/*/*.c))
HDR     := $(sort $(wildcard core/*/*.h))
LUALIB  := $(sort $(filter-out lua/chowk/meta/%,$(wildcard lua/chowk/*.lua)))
OBJ     := $(SRC:%.c=$(BUILD)/%.o) $(BUILD)/embed.o $(BUILD)/llhttp/llhttp.o $(BUILD)/llhttp/api.o $(BUILD)/llhttp/http.o
MAINOBJ := $(BUILD)/core/server/main.o
LIB     := $(BUILD)/libchowk.a
UNIT    := $(sort $(wildcard tests/unit/*/*_test.c))
UNITBIN := $(UNIT:tests/unit/%.c=$(BUILD)/unit/%)
FUZZ    := $(sort $(wildcard tests/fuzz/*_fuzz.c))
FUZZBIN := $(FUZZ:tests/fuzz/%.c=$(BUILD)/fuzzers/%)
REPLAY  := $(FUZZ:tests/fuzz/%.c=$(BUILD)/replay/%)

.PHONY: all deps deps-bench deps-fuzz deps-soak run test units unit spec wire replays fuzzers fuzz lint format headers layers clang asan install clean clean-data bench soak help
.DELETE_ON_ERROR:

all: $(BUILD)/chowk

help:
	@echo 'make            build $(BUILD)/chowk'
	@echo 'make run        build, start a private PostgreSQL and Redis and a stand-in for Razorpay, serve the shop on'
	@echo '                http://127.0.0.1:8080'
	@echo 'make test       units, specs, wire dialogues and faults; ends with "N passed, N failed"'
	@echo 'make asan       the same under AddressSanitizer and UBSan'
	@echo 'make soak       reloads, kills, stops and upgrades under full load, SOAK_SECONDS=60 each; SUITES="kill" picks some'
	@echo 'make fuzz       looks for inputs that break a parser, FUZZ_SECONDS=20 each; TARGETS="json head" picks some'
	@echo 'make lint       formatting, luacheck, include layers, self-contained headers, clang'
	@echo 'make format     rewrite C sources with clang-format'
	@echo 'make bench      figures beside the peers (installs them); writes tests/bench/RESULTS.md'
	@echo 'make deps       install what is missing with apt (root or sudo)'
	@echo 'make install    into $(PREFIX) (DESTDIR is honoured)'
	@echo 'make clean      remove $(BUILD)/;   make clean-data   drop the private databases below var/'

# ---- packages ---------------------------------------------------------------------------------------------
deps:
	@tests/deps.sh $(DEPS_BUILD) $(DEPS_RUN) $(DEPS_TEST) $(DEPS_LINT)

deps-bench: deps
	@tests/deps.sh $(DEPS_BENCH)

deps-fuzz: deps
	@tests/deps.sh $(DEPS_FUZZ)

deps-soak: deps
	@tests/deps.sh $(DEPS_SOAK)

# ---- build ------------------------------------------------------------------------------------------------
$(BUILD)/chowk: $(MAINOBJ) $(LIB)
	$(if $(Q),@echo '  LD    $@')
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $(MAINOBJ) $(LIB) $(PKG_LIBS)

$(LIB): $(filter-out $(MAINOBJ),$(OBJ))
	$(if $(Q),@echo '  AR    $@')
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/%.o: %.c
	$(if $(Q),@echo '  CC    $<')
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS_ALL) -c -o $@ $<

# llhttp's generated C is not ours: its warnings are its own.
$(BUILD)/llhttp/%.o: /usr/share/llhttp/%.c
	$(if $(Q),@echo '  CC    $<')
	$(Q)mkdir -p $(@D) && $(CC) -std=c11 -O2 -g -fPIE $(SAN) -isystem /usr/share/include/llhttp -I/usr/share/include/llhttp -c -o $@ $<

$(BUILD)/embed.c: core/script/embed_gen.lua $(LUALIB)
	$(if $(Q),@echo '  EMBED $@')
	$(Q)mkdir -p $(@D) && luajit core/script/embed_gen.lua $(LUALIB) > $@

$(BUILD)/embed.o: $(BUILD)/embed.c
	$(Q)$(CC) $(CFLAGS_ALL) -c -o $@ $<

$(BUILD)/unit/%: tests/unit/%.c $(LIB)
	$(if $(Q),@echo '  UNIT  $@')
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS_ALL) -Itests/unit $(LDFLAGS_ALL) -o $@ $< $(LIB) $(PKG_LIBS) -lcmocka

# One source, two drivers: libFuzzer looks for inputs, replay.c plays those that are kept.
$(BUILD)/fuzzers/%: tests/fuzz/%.c $(LIB)
	$(if $(Q),@echo '  FUZZ  $@')
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS_ALL) -Itests/fuzz $(LDFLAGS_ALL) -fsanitize=fuzzer -o $@ $< $(LIB) $(PKG_LIBS)

$(BUILD)/replay/%: tests/fuzz/%.c $(BUILD)/tests/fuzz/replay.o $(LIB)
	$(if $(Q),@echo '  REPLAY $@')
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS_ALL) -Itests/fuzz $(LDFLAGS_ALL) -o $@ $< $(BUILD)/tests/fuzz/replay.o $(LIB) $(PKG_LIBS)

.SECONDARY: $(BUILD)/tests/fuzz/replay.o

-include $(OBJ:.o=.d) $(UNITBIN:%=%.d) $(FUZZBIN:%=%.d) $(REPLAY:%=%.d) $(BUILD)/tests/fuzz/replay.d

# ---- run and prove ----------------------------------------------------------------------------------------
run: deps
	@$(MAKE) --no-print-directory all
	@$(BUILD)/chowk dev

test: deps
	@$(MAKE) --no-print-directory all units replays
	@BUILD=$(BUILD) tests/run.sh unit fuzz lint spec wire

units: $(UNITBIN)
replays: $(REPLAY)
fuzzers: $(FUZZBIN)
unit: all units
	@BUILD=$(BUILD) tests/run.sh unit
spec: all
	@BUILD=$(BUILD) tests/run.sh spec
wire: all
	@BUILD=$(BUILD) tests/run.sh wire

asan: deps
	@$(MAKE) --no-print-directory BUILD=build/asan CFLAGS='-O1 -g -fno-omit-frame-pointer' SAN='-fsanitize=address,undefined -fno-sanitize-recover=all' all units replays
	@BUILD=build/asan tests/run.sh unit fuzz spec wire

soak: deps-soak
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) tests/soak/run.sh $(SUITES)

# clang 14 does not say __SANITIZE_ADDRESS__, by which the free lists turn themselves off.
fuzz: deps-fuzz
	@$(MAKE) --no-print-directory BUILD=build/fuzz CC=clang CFLAGS='-O1 -g -fno-omit-frame-pointer -D__SANITIZE_ADDRESS__=1' \
	  SAN='-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all' fuzzers
	@BUILD=build/fuzz tests/fuzz/run.sh $(TARGETS)

lint: layers headers clang
	@clang-format --dry-run -Werror $(SRC) $(HDR) $(UNIT) $(wildcard tests/fuzz/*.[ch])
	@luacheck -q lua spec examples conf tests core
format:
	@clang-format -i $(SRC) $(HDR) $(UNIT) $(wildcard tests/fuzz/*.[ch])
layers:
	@tests/layers.sh
headers:
	@for h in $(HDR:core/%=%); do echo "#include \"$$h\"" | $(CC) $(CFLAGS_ALL) -MF /dev/null -fsyntax-only -x c - || exit 1; done

# What `make fuzz` builds with: other warnings, other builtins.
clang:
	@clang $(CFLAGS_ALL) -MF /dev/null -fsyntax-only $(SRC)

bench: deps-bench
	@$(MAKE) --no-print-directory all
	@tests/bench/run.sh

install: all
	install -D -m 755 $(BUILD)/chowk $(DESTDIR)$(PREFIX)/bin/chowk
	install -d $(DESTDIR)$(PREFIX)/share/chowk/meta
	install -m 644 lua/chowk/meta/*.lua $(DESTDIR)$(PREFIX)/share/chowk/meta/
	install -m 644 examples/tables.sql $(DESTDIR)$(PREFIX)/share/chowk/
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 644 conf/chowk.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/
	sed 's|/usr/local/bin|$(PREFIX)/bin|' conf/chowk.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/chowk.service

clean:
	rm -rf build
clean-data:
	@tests/clean_data.sh
