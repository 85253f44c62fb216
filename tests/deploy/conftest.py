"""These tests need much to be built, so they are not part of `make test`: `make check-deploy` runs them."""

import os

collect_ignore_glob = [] if os.environ.get("TOCSIN_TEST_DEPLOY") else ["test_*.py"]
