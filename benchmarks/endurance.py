"""Does a long run keep its memory, file handles and threads? 10,000 steps of the toy set.

    python benchmarks/endurance.py                      32x32, batches of 16, fused; some minutes
    python benchmarks/endurance.py --steps 2000 --train="--recipe best"

Reads them every thousand steps of a train.py that also draws sheets every 200 steps, saves and
measures every 500, as it does by default. Exits with 1 where the most of the last third is above
the most of the first third, for memory by more than GROWTH. Linux only.
"""
import argparse
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GROWTH = 0.05           # memory goes up and down by that from one thousand steps to the next


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=10000)
    parser.add_argument('--every', type=int, default=1000)
    parser.add_argument('--train', default='', help='more options for train.py')
    args = parser.parse_args()
    seen = []
    print('steps, resident MB, file handles, threads')
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            [sys.executable, os.path.join(ROOT, 'train.py'), '--dataset', 'toy', '--image-size',
             '32', '--batch-size', '16', '--fused-step', '--max-steps', str(args.steps),
             '--log-every', str(args.every), *args.train.split()],
            cwd=home, stdout=subprocess.PIPE, universal_newlines=True)
        for line in process.stdout:
            if line.startswith('epoch'):
                seen.append(state(process.pid))
                print(f'{args.every * len(seen)}, {seen[-1][0]:.0f}, {seen[-1][1]}, '
                      f'{seen[-1][2]}', flush=True)
        if process.wait():
            sys.exit(f'train.py ended with {process.returncode}')
    third = -(-len(seen) // 3)
    first, last = ([max(values) for values in zip(*part)] for part in (seen[:third], seen[-third:]))
    if last[0] > first[0] * (1 + GROWTH) or last[1] > first[1] or last[2] > first[2]:
        sys.exit('it has grown')


def state(pid):
    """(resident MB, file handles, threads) of a process."""
    with open(f'/proc/{pid}/status') as f:
        status = dict(line.split(':', 1) for line in f)
    return (int(status['VmRSS'].split()[0]) / 1e3, len(os.listdir(f'/proc/{pid}/fd')),
            int(status['Threads']))


if __name__ == '__main__':
    main()
