"""How far the middles of generate.py's walks are from other faces of the same generator.

    python benchmarks/walks.py model/dcgan_celeba model/dcgan_lfw

Prints the share of the latents' numbers that lie outside [-1, 1], and sliced Wasserstein distances
from FACES faces: of other faces, and of the middles of walks along the sphere as they are, clipped
to [-1, 1], and along a straight line.
"""
import argparse
import os
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import generate  # noqa: E402  found by the line above
import sampler  # noqa: E402
from dcgan import cli, metrics, session  # noqa: E402

FACES = 2000


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('checkpoints', type=cli.path, nargs='+', metavar='PREFIX')
    args = parser.parse_args()
    session.set_up()
    for prefix in args.checkpoints:
        with sampler.Sampler(prefix) as generator:
            rng = np.random.RandomState(0)
            starts, ends, faces, others = rng.uniform(-1, 1, (4, FACES, generator.z_dim))
            labels = generator.labels(0, FACES)
            middles = np.array([generate.slerp(a, b, 3)[1] for a, b in zip(starts, ends)])
            print(f'{prefix}: {(np.abs(middles) > 1).mean():.1%} outside [-1, 1]')
            reference = profile(generator, faces, labels)
            for name, latents in (('other faces', others), ('sphere', middles),
                                  ('sphere, clipped', np.clip(middles, -1, 1)),
                                  ('straight line', (starts + ends) / 2)):
                distances = metrics.swd(reference, profile(generator, latents, labels))
                print(f'{name:16} {np.mean(list(distances.values())):6.2f}', flush=True)


def profile(generator, latents, labels):
    """The swd_profile of the faces of latents [n, z_dim] and labels [n, l]."""
    return metrics.swd_profile(np.concatenate([
        generator.draw(latents[start:start + 64], labels[start:start + 64])
        for start in range(0, len(latents), 64)]))


if __name__ == '__main__':
    main()
