"""Names of the folders whose data sets can be downloaded, see `vitrail.data.published_sets`; known without torch."""

FETCHED = ("flowers-102", "oxford-iiit-pet", "cifar-10-batches-py", "cifar-100-python")


def fetch_hint(name: str) -> str:
    """Words to end an error with, about a folder of this name that is not there or empty; nothing for other names."""
    return f"; `vitrail train` fetches {name} there with data.download=true" if name in FETCHED else ""
