"""KubeSpawner's own tests, run on `InterLinkSpawner`. By hand: `make test-kubespawner`."""
