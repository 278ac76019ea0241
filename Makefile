# Everything here runs on a Debian 12 machine with Go, gcc, node and npm.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# One line instead of a failure halfway: these targets unpack packages with
# their owners and make mounts in namespaces of their own.
ROOT = @[ "$$(id -u)" = 0 ] || { echo "this needs root; run: sudo make $(or $(MAKECMDGOALS),$@)"; exit 6; }
BUILD = @mkdir -p build && go build -o build/builder ./image/build && build/builder

# tonutils-go fails checkptr, which -race switches on. The first half has run
# vet. What starts no goroutine, takes no lock and serves nothing cannot race:
# scripts/raced lists the rest, and make soak runs all.
RACE = -race -gcflags=all=-d=checkptr=0 -vet=off

.PHONY: help demo test bin deps image lock clean reproduce release rebuild deb soak generate check-generated bench

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: deps bin ## run the whole job on this machine (build/demo)
	@build/bin/cocoon demo run

test: deps image bin ## run all tests
	@cd contracts && npm test --silent
	@COCOON_IMAGE_REQUIRED=1 go test -timeout 60m ./...
	@go test $(RACE) -short -timeout 60m $$(scripts/raced)

bin: ## build the programs (build/bin)
	@mkdir -p build/bin
	@go build -o build/bin/ ./cmd/...

deb: bin ## build the Debian package (build/cocoon_VERSION_amd64.deb)
	@scripts/deb

generate: ## make the API's Go code and OpenAPI document from its protobuf
	@go run ./api/generate

check-generated: generate ## generate API and contracts and compare with what is committed
	@cd contracts && npm ci --silent --no-audit --no-fund && npm run --silent build
	@git diff --exit-code -- api contracts/compiled docs || { echo "generated files differ from what is committed"; exit 1; }

bench: ## compare the verifier with go-tdx-guest
	@go test -run '^$$' -bench Verify -benchmem ./verifier/tdx

soak: deps image bin ## what takes long: fuzzing, flat memory, reproducibility
	@scripts/soak

deps: ## install tools (build/tools), npm packages and Go modules
	$(ROOT)
	$(BUILD) deps
	@command -v chromium >/dev/null || apt-get install -y -q --no-install-recommends chromium
	@command -v curl >/dev/null || apt-get install -y -q --no-install-recommends curl ca-certificates
	@command -v jq >/dev/null || apt-get install -y -q --no-install-recommends jq
	@command -v systemd-analyze >/dev/null || apt-get install -y -q --no-install-recommends systemd
	@command -v softhsm2-util >/dev/null || apt-get install -y -q --no-install-recommends softhsm2
	@command -v redis-server valkey-server >/dev/null || RUNLEVEL=1 apt-get install -y -q --no-install-recommends redis-server

image: ## build the confidential-VM image (build/image) and the packs (build/packs): PROFILE=cpu
	$(ROOT)
	$(BUILD) image packs

clean: ## remove everything that was built
	$(ROOT)
	$(BUILD) clean

lock: ## take the archive's newest packages into image/packages.lock
	$(ROOT)
	$(BUILD) lock

reproduce: ## build twice in other surroundings and compare every byte
	$(ROOT)
	$(BUILD) reproduce

# Whose release it is: give your own keys and log, kept elsewhere than build/,
# which "make clean" removes. Without them a key and a log are made there.
RELEASE_KEY ?= build/keys/release.key
LOG_KEY ?= build/keys/log.key
LOG_DIR ?= build/keys/log
LOG_ORIGIN ?= localhost/cocoon
CLI = build/bin/cocoon

release: bin ## collect, measure, sign and log a release (build/release)
	$(ROOT)
	$(BUILD) release
	@install -d -m 700 build/keys
	@[ -e $(RELEASE_KEY) ] || $(CLI) manifest key --out $(RELEASE_KEY) >/dev/null
	@[ -e $(LOG_KEY) ] || $(CLI) manifest key --out $(LOG_KEY) >/dev/null
	@[ -e $(LOG_DIR)/log.pub ] || $(CLI) log init $(LOG_DIR) --origin $(LOG_ORIGIN) --key $(LOG_KEY) >/dev/null
	@$(CLI) release build/release --key $(RELEASE_KEY) --log $(LOG_DIR) --log-key $(LOG_KEY)
	@install -m 644 build/release/keys.json build/keys/keys.json

rebuild: ## build a release again from its own packages and compare: RELEASE=DIR
	$(ROOT)
	$(BUILD) rebuild
