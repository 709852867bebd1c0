# Selvedge: what a person types. Each target does its own set-up and says what it installs; `make help`
# lists them. What they start lives under .dev/; built tools are kept in $(SELVEDGE_CACHE) between clones.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export SELVEDGE_CACHE ?= $(HOME)/.cache/selvedge

CARGO ?= cargo
cluster = $(CARGO) run --quiet --package selvedge-cluster --

##@ Use

demo: ## From nothing to a device in kubectl: cluster, chart, edge node, application, device, Prometheus
	@$(CARGO) run --quiet --package selvedge-stories --bin demo

up: ## A cluster with the chart installed, and one edge host
	@$(CARGO) run --quiet --package selvedge-stories --bin demo -- --only-up

down: ## All of it gone: processes, mounts, namespaces, bridges, .dev/
	@$(cluster) down

##@ Work

check: fmt lint fast agent-is-light generated ## Format, lints, fast tests, generated files: a few minutes

test: check tools api stories ## Everything, from nothing: fast tests, a real API server, stories on the real cluster

test-long: fleet ## What takes hours: a fleet that is broken in every way, 10,000 histories, every mutant is caught by one, skew
	@SELVEDGE_HISTORIES=10000 $(CARGO) test --package selvedge-simulation --test histories
	@$(CARGO) test --package selvedge-simulation --test mutants -- --ignored --nocapture
	@$(MAKE) skew

skew: ## The stories with the agent, and with the hub, of the release before this one; an upgrade from it
	@for part in agent hub upgrade; do \
		SELVEDGE_SKEW=$$part $(CARGO) test --package selvedge-stories --test stories; \
	done

fmt: ## The code is formatted
	@$(CARGO) fmt --all --check

lint: ## Clippy on everything, warnings are errors
	@$(CARGO) clippy --quiet --workspace --all-targets -- --deny warnings

fast: ## Unit and component tests: no root, no network but loopback
	@$(CARGO) test --workspace --exclude selvedge-cluster --exclude selvedge-stories

tools: ## What the tests run on, built from pinned sources: Kubernetes, etcd, containerd, helm
	@$(cluster) tools

api: ## What needs root, or a real API server, and nothing else
	@$(CARGO) test --package selvedge-cluster --lib --tests
	@$(CARGO) test --package selvedge-powercut -- --ignored
	@$(CARGO) test --package selvedge-stories --lib --bins --test shapes
	@$(cluster) --dir target/api up --api-only
	@KUBECONFIG=$(CURDIR)/target/api/kubeconfig $(CARGO) test --package selvedge-operator --test api -- --ignored \
		|| { $(cluster) --dir target/api down; exit 1; }
	@$(cluster) --dir target/api down

stories: ## What users live through, on the whole real system
	@$(CARGO) test --package selvedge-stories --test stories

fleet: ## 2,000 simulated agents (SELVEDGE_FLEET) on the real cluster, through kills, cuts, accidents and restores
	@$(CARGO) test --package selvedge-stories --test fleet

deny: ## Licences and sources of all dependencies, by cargo-deny (installed into the cache once, minutes)
	@test -x $(SELVEDGE_CACHE)/cargo-deny/bin/cargo-deny \
		|| $(CARGO) install --quiet --locked --root $(SELVEDGE_CACHE)/cargo-deny cargo-deny
	@$(SELVEDGE_CACHE)/cargo-deny/bin/cargo-deny check bans licenses sources

agent-is-light: ## The agent links no kube and no k8s-openapi
	@! $(CARGO) tree --quiet --package selvedge-agent --edges normal --prefix none \
		| grep -E '^(kube|kube-[a-z]+|k8s-openapi) ' \
		|| { echo 'selvedge-agent must not link the crates above: they are for the cluster side'; exit 1; }

generate: ## CRDs into the chart, from the types; the reference of metrics, from the registries
	@$(CARGO) run --quiet --package selvedge-crds --bin crdgen
	@UPDATE_GOLDENS=1 $(CARGO) test --quiet --package selvedge-stories --test reference

generated: ## Generated files are up to date
	@$(CARGO) run --quiet --package selvedge-crds --bin crdgen -- --check
	@$(CARGO) test --quiet --package selvedge-stories --test reference

images: ## Static binaries in images from scratch; the agent for x86_64 and aarch64
	@$(cluster) images

bench: bench-demo bench-sync ## All benchmarks, and docs/benchmarks.md from their results
	@$(CARGO) run --quiet --package selvedge-stories --bin bench-page -- --date "$$(date --utc +%F)"

bench-demo: ## How fast, how small: the measures of the demo, into .dev/bench/demo.jsonl
	@$(CARGO) bench --quiet --profile dev --package selvedge-stories --bench demo

bench-sync: ## State sync against many simulated agents, beside a bare reference loop, into .dev/bench/sync.jsonl
	@$(CARGO) build --quiet --release --package selvedge-hub --package selvedge-controllers --package selvedge-agent
	@mkdir -p .dev/bench
	@$(CARGO) test --quiet --package selvedge-hub --test memory -- --nocapture \
		| grep -o '{".*}' >.dev/bench/sync.memory.jsonl
	@$(CARGO) run --quiet --release --package selvedge-load --bin bench-sync

bench-sync-fanout: ## One change to 100,000 agents over six hubs, into .dev/bench/sync.fanout.jsonl: half an hour, 20 GiB
	@$(CARGO) build --quiet --release --package selvedge-hub --package selvedge-controllers
	@$(CARGO) run --quiet --release --package selvedge-load --bin bench-sync -- --fanout $(or $(AGENTS),100000)

help: ## This text
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo up down check test test-long skew fleet deny tools api stories fmt lint fast agent-is-light generate generated images bench bench-demo bench-sync bench-sync-fanout help
