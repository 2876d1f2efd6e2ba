"""Measures training as two processes: images a second, bytes sent, and an estimate for more.

    python benchmarks/cluster.py                        on the toy set, 64x64, in float32
    python benchmarks/cluster.py --rounds 5 --train="--precision auto"

Alternating, one process on two cores with batches of 64 and two processes of one core each with
batches of 32, each a run of train.py with --fused-step; `--train` adds options. Images a second
come from loss.csv, the first steps left out; bytes from the counters of the loopback interface,
which only the two processes should use meanwhile. Linux only.
"""
import argparse
import csv
import os
import socket
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TRAIN = os.path.join(ROOT, 'train.py')
SKIPPED = 20            # steps until all is warm
NAMES = ('one process, two cores', 'two processes, one core each')


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=60)
    parser.add_argument('--train', default='', help='more options for train.py')
    args = parser.parse_args()
    rates, sent = {name: [] for name in NAMES}, []
    with tempfile.TemporaryDirectory() as home:
        for number in range(args.rounds):
            for name in NAMES:
                folder = os.path.join(home, f'{number}-{name}')
                os.mkdir(folder)
                before = loopback_bytes()
                train(home, folder, args, several=name == NAMES[1])
                if name == NAMES[1]:
                    sent.append((loopback_bytes() - before) / args.steps)
                rates[name].append(images_a_second(folder))
                print(f'round {number + 1}: {name}: {rates[name][-1]:.1f} images/s', flush=True)
    for name in NAMES:
        print(f'{name}: {statistics.median(rates[name]):.1f} images/s')
    ratios = [two / one for one, two in zip(*(rates[name] for name in NAMES))]
    print(f'ratio, median of {len(ratios)} rounds: {statistics.median(ratios):.3f} '
          f'({min(ratios):.3f} to {max(ratios):.3f})')
    print(f'{statistics.median(sent) / 1e6:.1f} MB a step through the interface, all told')


def train(home, folder, args, several):
    cores = sorted(os.sched_getaffinity(0))[:2]
    command = [sys.executable, TRAIN, '--dataset', 'toy', '--data-dir', home, '--fused-step',
               '--max-steps', str(args.steps), '--log-every', '1', '--save-every', '100000',
               '--sample-every', '100000', *args.train.split()]
    if several:
        ports = []
        for _ in cores:
            with socket.socket() as probe:
                probe.bind(('127.0.0.1', 0))
                ports.append(f'127.0.0.1:{probe.getsockname()[1]}')
        ways = [([core], ['--batch-size', '32', '--cluster', ','.join(ports), '--task', str(task)])
                for task, core in enumerate(cores)]
    else:
        ways = [(cores, ['--batch-size', '64'])]
    running = [subprocess.Popen(command + more, cwd=folder, stdout=subprocess.DEVNULL,
                                preexec_fn=lambda cores=cores: os.sched_setaffinity(0, cores))
               for cores, more in ways]
    for process in running:
        if process.wait():
            sys.exit(f'train.py ended with {process.returncode}')


def images_a_second(folder):
    with open(os.path.join(folder, 'samples', 'dcgan_toy', 'loss.csv'), newline='') as f:
        # The last step's row comes before the checkpoint is saved.
        rows = [(int(row['images']), float(row['seconds'])) for row in csv.DictReader(f)][SKIPPED:]
    return (rows[-1][0] - rows[0][0]) / (rows[-1][1] - rows[0][1])


def loopback_bytes():
    with open('/sys/class/net/lo/statistics/tx_bytes') as f:
        return int(f.read())


if __name__ == '__main__':
    main()
