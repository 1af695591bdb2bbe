# The commands of Seki. `make` alone lists them.
PORT_BASE ?=
MODEL ?=
ARGS ?=
PREFIX ?= /usr/local
export PORT_BASE MODEL

.PHONY: help run stop test test-full demo bench bench-peers bench-goodput build install deb kubectl kubernetes kubernetes-full format clean

help:
	@printf '%s\n' \
	  'make run            install what is needed, build, start Seki with a model, ask it something' \
	  '                      ARGS=--detach  return when it has answered   PORT_BASE=20000  other ports' \
	  '                      MODEL=FILE.gguf  serve another model' \
	  'make stop           end what make run started' \
	  'make demo           a told and checked story of what Seki does (ten minutes at most)' \
	  'make test           install what tests need, build with sanitizers, run every suite' \
	  'make test-full      the long suites: kills, chaos, soak, fuzzing' \
	  'make bench          measure, and print tables' \
	  'make bench-goodput  requests in time per engine-second, beside routers in GWBENCH_HOME=DIR' \
	  'make bench-peers    the gateway beside others, by the harness in GWBENCH=DIR' \
	  'make build          the release build alone, in build/release' \
	  'make install        install it (PREFIX, DESTDIR)' \
	  'make deb            the Debian package, in build/deb' \
	  'make kubectl        build kubectl when this machine has none that is new enough' \
	  'make kubernetes     build the programs of Kubernetes (long, once)' \
	  '                      KUBE_BIN=DIR  take those of a folder' \
	  'make kubernetes-full  those of the previous minor, too, for upgrades, and what proofs take:' \
	  '                      simulated nodes, the conformance suite' \
	  'make format         clang-format on what differs from HEAD' \
	  'make clean          remove build/ (state in var/ stays)'

run:
	@scripts/run $(ARGS)

stop:
	@scripts/stop

test:
	@scripts/test

test-full:
	@scripts/test --full

demo:
	@scripts/demo

bench:
	@scripts/bench $(ARGS)

bench-goodput:
	@scripts/bench-goodput $(ARGS)

bench-peers:
	@scripts/bench-peers $(ARGS)

build:
	@scripts/build

install: build
	@meson setup --reconfigure build/release -Dprefix=$(PREFIX) >/dev/null
	@ninja -C build/release --quiet
	@meson install -C build/release --no-rebuild --quiet
	@printf '    installed below %s\n' '$(DESTDIR)$(PREFIX)'

deb:
	@scripts/deb

kubectl:
	@scripts/kubectl

kubernetes:
	@scripts/kubernetes $(ARGS)

# The newest first: what two minors have in common is built for it.
kubernetes-full:
	@for minor in $$(ls -d tools/kubernetes/1.* | sort -rV); do KUBE_FULL=1 KUBE_MINOR=$${minor##*/} scripts/kubernetes $(ARGS) || exit; done

format:
	@git diff --name-only --diff-filter=d HEAD -- '*.c' '*.h' | xargs -r clang-format-19 -i

clean:
	@rm -rf build
