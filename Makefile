# make demo: see rain vanish from a rendered drive.   make test: everything that is tested.
# Both make the environment first. PYTHON chooses the interpreter (3.11 to 3.14), PIP_ARGS adds to pip's arguments.

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip
DERAIN = $(VENV)/bin/derain

# Two files of tests at a time. In each, PyTorch computes in one thread: threads of several processes, which wait for
# each other in a loop, would take the cores from one another. Nothing waits for ever: a test that hangs shows where
# and ends its process, and a process that dies ends the run (with another one in its place, pytest-xdist waits for
# tests that the dead one had finished).
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0 \
    -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

# What takes and writes pixels, once more with the NumPy and OpenCV of Ubuntu 24.04, which has Python 3.12.
UBUNTU = $(VENV)/ubuntu-24.04
UBUNTU_TESTS = test/test_messages.py test/test_image_header.py test/test_node.py

.PHONY: demo test environment benchmark faults clean

demo: $(VENV)/.demo
	$(DERAIN) demo $(DEMO_ARGS)

test: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python test/audit.py
	RAIN_REMOVAL_TEST_EVERYTHING=1 $(PYTEST) $(TEST_ARGS)
	if test -d $(UBUNTU); then PYTHONPATH=$(UBUNTU) $(PYTEST) $(UBUNTU_TESTS); fi

benchmark: $(VENV)/.demo
	$(DERAIN) benchmark $(BENCHMARK_ARGS)

# Some 290 faults done to the node, and 100,000 messages searched for one that it cannot take: about ten minutes.
faults: $(VENV)/.test
	PYTHONPATH=test $(VENV)/bin/python -m faults.matrix $(FAULTS_ARGS)
	FUZZ_MESSAGES=102000 $(VENV)/bin/python -m pytest test/test_fuzz.py

environment: $(VENV)/.test

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip

$(VENV)/.demo: setup.py constraints.txt | $(VENV)/bin/python
	$(PIP) install $(PIP_ARGS) --constraint constraints.txt --editable '.[ros,scenes]'
	touch $@

$(VENV)/.test: setup.py constraints.txt | $(VENV)/bin/python
	$(PIP) install $(PIP_ARGS) --constraint constraints.txt --editable '.[ros,bags,archives,scenes,training,test]'
	rm -rf $(UBUNTU)
	if $(VENV)/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then \
	    $(PIP) install $(PIP_ARGS) --constraint constraints-ubuntu-24.04.txt --no-deps --target $(UBUNTU) \
	        numpy opencv-python-headless; fi
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) demo_output runs
