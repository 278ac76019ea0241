# Everything here runs on a Debian 12 machine with Go, gcc, node and npm.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# One line instead of a failure halfway: these targets unpack packages with
# their owners and make mounts in namespaces of their own.
ROOT = @[ "$$(id -u)" = 0 ] || { echo "this needs root; run: sudo make $@"; exit 6; }
BUILD = @mkdir -p build && go build -o build/builder ./image/build && build/builder

.PHONY: help deps image clean repro release rebuild

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install tools (build/tools), npm packages and Go modules
	$(ROOT)
	$(BUILD) deps

image: ## build the confidential-VM image (build/image) and the packs (build/packs)
	$(ROOT)
	$(BUILD) image packs

clean: ## remove everything that was built
	$(ROOT)
	$(BUILD) clean

repro: ## build image and packs twice and compare every byte
	$(ROOT)
	$(BUILD) repro

release: ## collect artefacts and the packages they are made of (build/release)
	$(ROOT)
	$(BUILD) release

rebuild: ## build a release again from its own packages and compare: RELEASE=DIR
	$(ROOT)
	$(BUILD) rebuild
