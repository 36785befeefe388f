# Everything a newcomer needs: `make run` and `make test`. Nothing but Go and
# Node has to be there.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

BIN := $(CURDIR)/bin
TOOLS := $(BIN)/tools
FUZZTIME ?= 10s
# The race detector needs a C compiler; without one the tests run without it.
RACE := $(shell command -v $${CC:-gcc} >/dev/null 2>&1 && echo -race)
export PATH := $(TOOLS):$(PATH)

# The protos of google/api, out of the Go module cache; they are not committed.
# The go command ignores folders that begin with an underscore.
GOOGLEAPIS_MODULE := github.com/grpc-ecosystem/grpc-gateway@v1.16.0
WORKSPACE := $(BIN)/_proto

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

.PHONY: build
build: ## Build bin/stsd and bin/stsctl
	@mkdir -p $(BIN)
	go build -o $(BIN)/ ./cmd/...

.PHONY: run
run: build ## Build, then run a development server with its data in .dev
	exec $(BIN)/stsd serve --dev --data .dev --http 127.0.0.1:8080 --grpc 127.0.0.1:8081

.PHONY: test
test: node-modules $(BIN)/vaultserver $(BIN)/etcdserver ## Run all tests: the module's with the race detector, then end to end
	@test -n "$(RACE)" || echo 'no C compiler: the tests run without the race detector'
	go test -timeout 20m $(RACE) ./...
	@# What the race detector would distort.
	go test -run 'TestAuthenticationTime' ./sts
	go test -run 'TestRotationModel' ./keys
	go test -run 'TestCompileOfManyRules' ./policy
	@# What runs the binaries cannot be cached: their sources are not the tests'.
	cd test && go test -timeout 30m -count=1 ./...

.PHONY: node-modules
node-modules: test/node/node_modules/.installed

test/node/node_modules/.installed: test/node/package-lock.json
	cd test/node && npm ci --no-audit --no-fund
	@touch $@

# A real Vault and a real etcd for the tests, in modules of their own: they bring
# hundreds of others. The first build of Vault takes minutes.
$(BIN)/%server: test/%server/main.go $(wildcard test/*server/*.go) test/%server/go.mod test/%server/go.sum
	@mkdir -p $(BIN)
	cd test/$*server && go build -o $@.new . && mv $@.new $@

.PHONY: bench
bench: $(BIN)/vaultserver $(BIN)/etcdserver ## Measure the speed, as ratios to the floor of DESIGN.md
	cd test && go test -run '^$$' -bench 'Floor|AuditDurability' -benchtime 1x -timeout 30m ./bench
	go test -run '^$$' -bench 'Rules|Compile' -benchtime 1x ./policy
	cd test && go test -run '^$$' -bench BigStore -benchtime 1x -timeout 30m ./bench

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (default 10s)
	@for pkg in $$(go list ./...); do \
		tests=$$(go test -list '^Fuzz' $$pkg) || { echo "$$tests"; exit 1; }; \
		for target in $$(grep '^Fuzz' <<< "$$tests" || true); do \
			echo "$$pkg $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

# buf is in a module of its own: it asks for a later, unreleased protobuf, and
# with it protoc-gen-go would not be the version that the core's go.mod has.
.PHONY: tools
tools: $(TOOLS)/.built

$(TOOLS)/.built: tools/go.mod tools/go.sum tools/buf/go.mod tools/buf/go.sum
	@mkdir -p $(TOOLS)
	cd tools && GOBIN=$(TOOLS) go install tool
	cd tools/buf && GOBIN=$(TOOLS) go install tool
	@touch $@

# A copy of the protos with those of google/api beside them, as buf wants it.
.PHONY: workspace
workspace: tools
	@rm -rf $(WORKSPACE)
	@mkdir -p $(WORKSPACE)/third_party/google/api
	@cp -r proto $(WORKSPACE)/proto
	@dir=$$(cd tools && go mod download -json $(GOOGLEAPIS_MODULE) | sed -n 's/.*"Dir": "\(.*\)",/\1/p') && \
		cp $$dir/third_party/googleapis/google/api/annotations.proto $$dir/third_party/googleapis/google/api/http.proto \
			$(WORKSPACE)/third_party/google/api/
	@chmod -R u+w $(WORKSPACE)
	@sed 's|  - path: proto|  - path: proto\n  - path: third_party|' buf.yaml > $(WORKSPACE)/buf.yaml
	@cp buf.gen.yaml $(WORKSPACE)/
	@cd $(WORKSPACE) && buf generate proto && buf build proto --as-file-descriptor-set -o image.binpb

.PHONY: generate
generate: workspace ## Regenerate gen/, the description of the API in it, and the reference pages
	rm -rf gen/sts
	cp -r $(WORKSPACE)/gen/sts gen/sts
	go run ./docs/generate
	go test ./cmd/stsctl -run Reference -update

.PHONY: check-generate
check-generate: workspace ## Fail if gen/ or the reference is not what the sources make
	@diff -r gen/sts $(WORKSPACE)/gen/sts || { echo 'gen/sts is not what proto/ makes: run `make generate` and commit the result'; exit 1; }
	go run ./docs/generate -check

.PHONY: lint
lint: workspace tidy-check ## gofmt, go mod tidy, go vet, staticcheck, buf lint, buf breaking
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w on these files'; exit 1; }
	go vet ./...
	cd test && go vet ./...
	staticcheck ./...
	cd test && staticcheck ./...
	cd test/vaultserver && go vet ./... && staticcheck ./...
	cd test/etcdserver && go vet ./... && staticcheck ./...
	cd $(WORKSPACE) && buf lint proto
	$(MAKE) --no-print-directory breaking

# Without tools/buf, test/vaultserver and test/etcdserver: their go.sum has what building needs, and
# the build fails when that is too little; tidy would add what the tests of their
# own dependencies need.
.PHONY: tidy-check
tidy-check: ## Fail if a go.mod or go.sum is not what `go mod tidy` makes of it
	@for dir in . test tools; do \
		(cd $$dir && go mod tidy -diff) || { echo "$$dir/go.mod or go.sum is not tidy: run \`go mod tidy\` in $$dir and commit the result"; exit 1; }; \
	done

# Against the last release that this commit descends from. Before there is one,
# against the commit that completed the contract: a file deleted or a field
# renumbered by accident should not wait for a release to be noticed.
.PHONY: breaking
breaking: workspace
	@tag=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true); \
	if [ -z "$$tag" ]; then tag=$$(git log --format=%H --diff-filter=A -- proto/sts/v1/config.proto | tail -n 1); fi; \
	if [ -z "$$tag" ]; then echo 'buf breaking: no earlier version of the protos to compare with'; exit 0; fi; \
	rm -rf $(BIN)/_proto-before && mkdir -p $(BIN)/_proto-before && \
	git archive $$tag proto | tar -x -C $(BIN)/_proto-before && \
	cp -r $(WORKSPACE)/third_party $(WORKSPACE)/buf.yaml $(BIN)/_proto-before/ && \
	echo "buf breaking: against $$tag" && \
	cd $(WORKSPACE) && buf breaking proto --against $(BIN)/_proto-before/proto

.PHONY: vuln
vuln: tools ## Look for known vulnerabilities; not in CI: it needs their database from the network
	govulncheck ./...

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(BIN) test/node/node_modules
