"""``python -m lovage_celery``."""

import sys

from .cleanup import main

if __name__ == "__main__":
    sys.exit(main())
