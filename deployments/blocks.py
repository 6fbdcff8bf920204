"""Keep S3 credentials in Prefect secret blocks, from which the pool of process/work-pool.json hands them to its runs.

    python deployments/blocks.py

They are taken from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION (us-east-1 if not set) and
AWS_ENDPOINT_URL (Amazon's if not set). Each has a block of its own, for the server hides text in a secret block from
whoever asks, but not the fields of a dict.
"""

import os
import sys
from contextlib import suppress

from prefect.blocks.system import Secret

BLOCKS = {  # process/work-pool.json names them, too
    "AWS_ACCESS_KEY_ID": "npo-s3-access-key-id",
    "AWS_SECRET_ACCESS_KEY": "npo-s3-secret-access-key",
    "AWS_DEFAULT_REGION": "npo-s3-default-region",
    "AWS_ENDPOINT_URL": "npo-s3-endpoint-url",
}
DEFAULTS = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": "https://s3.amazonaws.com"}
BEFORE = "npo-s3"  # one block for all of it, which the server of versions up to 0.3 showed in clear


def main() -> None:
    """Write the blocks anew, or say what is missing."""
    held = {name: os.environ.get(name) or DEFAULTS.get(name) for name in BLOCKS}
    if missing := [name for name, value in held.items() if not value]:
        sys.exit(f"Error: {' and '.join(missing)} must be set: export the credentials that the blocks are to hold.")
    for name, value in held.items():
        Secret(value=value).save(BLOCKS[name], overwrite=True, _sync=True)
    with suppress(ValueError):  # it is not there
        Secret.delete(BEFORE, _sync=True)
    print(f"The secret blocks {', '.join(BLOCKS.values())} hold {', '.join(held)}.")


if __name__ == "__main__":
    main()
