"""A number of rows → vectors that are made up: low-rank, clustered, with noise, of any number of dimensions.

Not a bench itself, and never a stand-in for real embeddings: what is measured with it is called synthetic.
"""

import numpy as np

LATENT, CLUSTERS, NOISE = 64, 2_000, 0.05


def vectors(rows, dimensions):
    """Clusters of unequal size around centres in few dimensions, laid into many, with noise. The same ones each time."""
    random = np.random.default_rng(7)
    share = 1 / np.arange(1, CLUSTERS + 1) ** 0.7
    centres = random.standard_normal((CLUSTERS, LATENT), dtype=np.float32)
    spread = random.uniform(0.3, 0.9, CLUSTERS).astype(np.float32)
    lift = random.standard_normal((LATENT, dimensions), dtype=np.float32) / np.sqrt(LATENT)
    made = np.empty((rows, dimensions), dtype=np.float32)
    for start in range(0, rows, 50_000):
        count = min(50_000, rows - start)
        cluster = random.choice(CLUSTERS, count, p=share / share.sum())
        latent = centres[cluster] + spread[cluster, None] * random.standard_normal((count, LATENT), dtype=np.float32)
        noise = random.standard_normal((count, dimensions), dtype=np.float32)
        made[start : start + count] = latent @ lift + NOISE * noise
    return made
