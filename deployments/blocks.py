"""Keep S3 credentials in a Prefect secret block, from which the pool of process/work-pool.json hands them to its runs.

    python deployments/blocks.py

They are taken from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION (us-east-1 if not set) and
AWS_ENDPOINT_URL (Amazon's if not set).
"""

import os
import sys

from prefect.blocks.system import Secret

BLOCK = "npo-s3"  # process/work-pool.json names it, too
DEFAULTS = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": "https://s3.amazonaws.com"}


def main() -> None:
    """Write the block anew, or say what is missing."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", *DEFAULTS)
    held = {name: os.environ.get(name) or DEFAULTS.get(name) for name in names}
    if missing := [name for name, value in held.items() if not value]:
        sys.exit(f"Error: {' and '.join(missing)} must be set: export the credentials that the block is to hold.")
    Secret(value=held).save(BLOCK, overwrite=True, _sync=True)
    print(f"The secret block {BLOCK} holds {', '.join(held)}.")


if __name__ == "__main__":
    main()
