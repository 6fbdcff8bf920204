"""`python -m npo_core.tracking`, as `follow` starts it."""

from npo_core.tracking.follow import main

main()
