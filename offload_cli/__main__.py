"""`python -m offload_cli`: the command `offload`, where it is not on the PATH."""

from offload_cli.main import main

main()
