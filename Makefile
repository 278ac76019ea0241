# Everything here runs on a Debian 12 machine with Go, gcc, node and npm.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# One line instead of a failure halfway: these targets unpack packages with
# their owners and make mounts in namespaces of their own.
ROOT = @[ "$$(id -u)" = 0 ] || { echo "this needs root; run: sudo make $@"; exit 6; }

.PHONY: help deps image clean repro

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install tools (build/tools), npm packages and Go modules
	$(ROOT)
	@go run ./image/build deps

image: ## build the confidential-VM image (build/image) and the packs (build/packs)
	$(ROOT)
	@go run ./image/build image
	@go run ./image/build packs

clean: ## remove everything that was built
	$(ROOT)
	@go run ./image/build clean

repro: ## build image and packs twice and compare every byte
	$(ROOT)
	@go run ./image/build repro
