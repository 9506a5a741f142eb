# What people and CI call; `make` alone lists it. Everything is built from the Go module proxy, nothing is downloaded from
# elsewhere. Binaries of the product go to bin/, pinned tools to bin/tools, reference CNI plugins to bin/cni.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

GO ?= go
# Time per fuzz target. Inputs that reach new code are made smaller with a hundred executions, not for a minute each.
FUZZTIME ?= 10s
FUZZ := -run '^$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 100x
# Packages of the tests, and any further arguments of `go test`: make test PKG=./internal/... ARGS='-run TestPlan -count=5'
PKG ?= ./...
ARGS ?=

# The race detector needs a C compiler.
RACE ?= $(if $(shell command -v $$($(GO) env CC)),-race)
# The commit goes into the binaries if git can read it; git may be missing, or not trust the owner of the folder.
BUILDVCS := $(if $(shell git rev-parse --verify --quiet HEAD 2>/dev/null),auto,false)

TEST_TOOLS := bin/cni bin/tools/kube-apiserver bin/tools/etcd
# What a real node needs in addition.
CLUSTER_TOOLS := $(TEST_TOOLS) bin/tools/kubelet bin/tools/containerd bin/tools/runc
# What make e2e needs in addition.
E2E_TOOLS := $(CLUSTER_TOOLS) bin/tools/whereabouts bin/tools/dradriver bin/tools/helm bin/tools/otlp bin/tools/prometheus
GOTESTSUM := bin/tools/gotestsum
# Prints the name of each package, its failed and skipped tests, and at the end "DONE n tests, m skipped in …".
RUN_TESTS := $(GOTESTSUM) --format pkgname --format-hide-empty-pkg --
# A package with real namespaces or servers may take longer than the ten minutes that go test allows.
TEST_TIMEOUT ?= 20m
# The tests of a real node take twenty minutes.
E2E_TIMEOUT ?= 40m

.DEFAULT_GOAL := help
.PHONY: help build test test-fast lint vulncheck fuzz fuzz-rules faults rules bench bench-node bench-diff scale density demo cluster e2e neighbours image release man tools tools-cluster clean \
	bin/cni bin/tools/kube-apiserver bin/tools/etcd bin/tools/gotestsum bin/tools/golangci-lint bin/tools/govulncheck bin/tools/vale bin/demo \
	bin/tools/kubelet bin/tools/containerd bin/tools/runc bin/tools/whereabouts bin/tools/dradriver bin/tools/kube-burner bin/tools/helm bin/tools/otlp bin/tools/certmanager bin/tools/prometheus bin/cluster

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r t d; do printf '  %-13s %s\n' "$$t" "$$d"; done

# Without inlining in our own packages the plugin is 110 kB smaller, and starts no later: most of its code runs once. The cost
# for the daemon is 4 of the 50 microseconds of a plan.
build: ## build all commands into bin/, static
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=$(BUILDVCS) -gcflags=multus/...=-l -ldflags "-s -w" -o bin/ ./cmd/...
	@ln -sf multusctl bin/kubectl-multus
	@ln -sf multusctl bin/kubectl_complete-multus

test: build $(TEST_TOOLS) bin/tools/whereabouts bin/tools/helm bin/tools/otlp bin/tools/certmanager bin/tools/prometheus $(GOTESTSUM) ## run all tests, with the race detector (root for all of them; builds the tools first)
	@$(if $(RACE),,echo "no C compiler: testing without the race detector")
	CGO_ENABLED=$(if $(RACE),1,0) $(RUN_TESTS) $(RACE) -shuffle=on -timeout=$(TEST_TIMEOUT) $(ARGS) $(PKG)

# The tests of test/ and tools/ are left out: they build binaries and run real nodes.
FAST_PKG ?= ./cmd/... ./internal/... ./wire/...

# Without vet, which make lint runs, and without symbols: half of the time is the linking of fifty programs. Eight at a time, because
# many tests wait.
test-fast: ## run the tests beside the code, which need neither root nor tools nor servers: seconds
	$(GO) test -short -p 8 -vet=off -ldflags='-s -w' $(ARGS) $(FAST_PKG)

lint: bin/tools/golangci-lint bin/tools/vale ## check style, formatting, go.mod, and the prose of comments and documents
	$(GO) vet ./...
	GOOS=darwin $(GO) vet ./cmd/multusctl
	GOOS=windows $(GO) vet ./cmd/multusctl
	bin/tools/golangci-lint run
	$(GO) mod tidy -diff
	@tools/prose .

# Another database of vulnerabilities: a URL, also file:///.
VULNDB ?= https://vuln.go.dev

vulncheck: bin/tools/govulncheck ## look for known vulnerabilities in what the commands use (VULNDB names the database; reports if it cannot be reached)
	@tools/vulncheck $(VULNDB) ./cmd/...

fuzz: ## run every fuzz target for FUZZTIME (10s), one after another
	@$(GO) test -list '^Fuzz' -json $(PKG) \
		| sed -n 's/.*"Package":"\([^"]*\)".*"Output":"\(Fuzz[A-Za-z0-9_]*\)\\n".*/\1 \2/p' \
		| while read -r pkg target; do \
			echo "fuzzing $$pkg $$target for $(FUZZTIME)"; \
			$(GO) test $(FUZZ) -fuzz "^$$target\$$" "$$pkg" </dev/null; \
		done

fuzz-rules: ## fuzz each rule of lint alone for FUZZTIME (10s), on files and on objects; RULES="mac port" for some
	@for rule in $${RULES:-$$($(GO) run ./cmd/multusctl lint --rules | sed 1d | cut -d' ' -f1)}; do \
		for target in FuzzRun FuzzReview; do \
			echo "fuzzing the rule $$rule with $$target for $(FUZZTIME)"; \
			LINT_RULE=$$rule $(GO) test $(FUZZ) -fuzz "^$$target\$$" ./internal/lint </dev/null || exit 1; \
		done; \
	done

# Seconds of random faults. With more than 60, the tests that `make test` leaves out run, too.
FAULTS_SECONDS ?= 300

faults: $(TEST_TOOLS) ## inject faults, and print a table of leaked resources (root)
	@table=$$(mktemp); trap 'rm -f "$$table"' EXIT; status=0; \
		FAULTS_SECONDS=$(FAULTS_SECONDS) FAULTS_TABLE=$$table $(GO) test -count=1 -timeout=$$(( $(FAULTS_SECONDS) + 5400 ))s $(ARGS) ./test/faults || status=$$?; \
		cat "$$table"; exit $$status

rules: ## list the tests of each rule of docs/behaviour.md; fails on a rule without a test, and on a citation of an unknown rule
	$(GO) run ./tools/rules

# Where the measurements are written: bench.md, bench.json, bench.svg, node.json, density.json, and the page's parts. BENCH_SCALE=n does n times the work,
# BENCH_QUICK=1 a part of it without writing; UPSTREAM_BIN names a directory with other binaries to measure beside ours.
BENCH_OUT ?= dist/bench

bench: build $(TEST_TOOLS) ## measure beside the delegates alone, print the table with the budgets, write docs/performance.md (root; some minutes)
	$(GO) test -run - -bench . -benchmem ./internal/... ./test/bench
	BENCH_OUT=$(abspath $(BENCH_OUT)) BENCH_PAGE=$(abspath docs/performance.md) $(GO) test -v -count=1 -timeout=60m -run TestBench $(ARGS) ./test/bench

bench-node: build $(TEST_TOOLS) ## of bench only the set-up of a usual node, beside the delegates alone; write it into docs/performance.md (root; five minutes)
	BENCH_OUT=$(abspath $(BENCH_OUT)) BENCH_PAGE=$(abspath docs/performance.md) $(GO) test -v -count=1 -timeout=60m -run TestBenchNode $(ARGS) ./test/bench

# The revision to compare with: make bench-diff BASE=v0.1.0
BASE ?= HEAD
bench-diff: bin/tools/benchstat ## compare parsers, resolver and ledger with those of revision BASE (benchstat; some minutes)
	@test/bench/diff $(BASE)

scale: $(TEST_TOOLS) ## measure the cost of 10,000 network definitions, and write it into docs/scale.md (root; ten minutes)
	SCALE=$(abspath docs/scale.md) $(GO) test -v -count=1 -timeout=30m -run TestScale $(ARGS) ./test/scale

# DENSITY_ROUNDS=n measures n rounds; with fewer than three nothing is written.
density: $(CLUSTER_TOOLS) bin/tools/kube-burner ## measure the time to Ready of a hundred pods on a real node, beside one without Multus; write it into docs/performance.md (root; 20 minutes or more)
	BENCH_OUT=$(abspath $(BENCH_OUT)) DENSITY=$(abspath docs/performance.md) DENSITY_ROUNDS=$(DENSITY_ROUNDS) $(GO) test -v -count=1 -timeout=60m -run TestDensity $(ARGS) ./test/density

demo: build bin/cni bin/demo ## attach three networks to a pod on a temporary node, and show every step (root)
	bin/demo $(ARGS)

cluster: build $(CLUSTER_TOOLS) bin/cluster ## run a real Kubernetes with Multus until Ctrl-C, and print how to use it; ARGS=-nodes=2 for two nodes (root)
	bin/cluster $(ARGS)

# What `make e2e` runs. `make test` runs the first two, too; the tests of a real node take minutes.
E2E ?= ./test/e2e/... ./test/neighbours ./test/realnode
# Rounds of the test in which pods come and go while GC and CHECK run; `make neighbours` runs a thousand.
ROUNDS ?= 50

e2e: build $(E2E_TOOLS) $(GOTESTSUM) ## run the end-to-end tests, with a real Kubernetes, and print a table of them (root)
	@results=$$(mktemp); trap 'rm -f "$$results"' EXIT; status=0; \
		REALNODE=1 NEIGHBOURS_ROUNDS=$(ROUNDS) $(GOTESTSUM) --format pkgname --format-hide-empty-pkg --jsonfile "$$results" -- \
			-p 1 -count=1 -timeout=$(E2E_TIMEOUT) $(ARGS) $(E2E) || status=$$?; \
		echo; $(GO) run ./tools/table "$$results"; exit $$status

neighbours: $(TEST_TOOLS) bin/tools/whereabouts ## run the software of docs/ecosystem.md beside Multus, the long form (root; an hour)
	NEIGHBOURS_ROUNDS=$(if $(filter file,$(origin ROUNDS)),1000,$(ROUNDS)) $(GO) test -count=1 -timeout=3h $(ARGS) ./test/neighbours

# The name of the image in the archives, as in the manifests, and the values of its labels.
IMAGE ?= localhost/multus:latest
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
REVISION ?= $(shell git rev-parse --verify --quiet HEAD 2>/dev/null)
SOURCE ?=

image: ## write the container image for amd64 and arm64 into dist/, without a container engine
	$(GO) run ./tools/image -image '$(IMAGE)' -version '$(VERSION)' -revision '$(REVISION)' -source '$(SOURCE)' -buildvcs=$(BUILDVCS) $(ARGS)

# The command that signs a file: SIGN='cosign sign-blob --yes --bundle release.sigstore.json'. BUILDER is the URI of the builder in the provenance.
SIGN ?=
BUILDER ?= urn:multus:builder:local

release: bin/tools/helm ## write the files of a release of HEAD into dist/release: make release VERSION=v1.2.3 IMAGE=registry.example/multus SOURCE=https://…
	$(GO) run ./tools/release -version '$(VERSION)' -image '$(patsubst %:latest,%,$(IMAGE))' -source '$(SOURCE)' -sign '$(SIGN)' -builder '$(BUILDER)' $(ARGS)

man: ## write the manual pages of multusctl into dist/man
	$(GO) run ./tools/man dist/man

tools: $(TEST_TOOLS) bin/tools/whereabouts bin/tools/helm bin/tools/otlp bin/tools/certmanager bin/tools/prometheus $(GOTESTSUM) bin/tools/golangci-lint bin/tools/vale ## build the tools of make test and make lint

tools-cluster: $(CLUSTER_TOOLS) ## build the tools of make cluster

clean: ## remove what was built, the tools included
	rm -rf bin dist coverage coverage.out

bin/demo:
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=$(BUILDVCS) -o bin/demo ./tools/demo

# tools/build does nothing when the tool is there and what pins it is unchanged; see there.
bin/cni:
	@tools/build cni
bin/tools/kube-apiserver:
	@tools/build kube
bin/tools/kubelet:
	@tools/build node
bin/cluster:
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=$(BUILDVCS) -o bin/cluster ./tools/cluster
bin/tools/etcd bin/tools/containerd bin/tools/runc bin/tools/whereabouts bin/tools/dradriver bin/tools/kube-burner bin/tools/helm bin/tools/otlp bin/tools/certmanager bin/tools/prometheus bin/tools/gotestsum bin/tools/golangci-lint bin/tools/benchstat bin/tools/govulncheck bin/tools/vale:
	@tools/build $(@F)
