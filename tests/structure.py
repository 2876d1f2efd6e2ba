"""The structure of the code, as docs/architecture.md shows it.

    python tests/structure.py           prints the table of all files

Of each file: its lines, its longest function with the lines it has, and the modules of the project
that it imports, also within functions.
"""
import ast
import glob
import os
import statistics

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def modules():
    """{module: path} of the files at the root and, as dcgan.name, in dcgan/."""
    paths = glob.glob(os.path.join(ROOT, '*.py')) + glob.glob(os.path.join(ROOT, 'dcgan', '*.py'))
    return {os.path.relpath(path, ROOT)[:-len('.py')].replace(os.sep, '.'): path
            for path in sorted(paths) if os.path.getsize(path) > 100}


def tree(path):
    with open(path, encoding='utf-8') as f:
        return ast.parse(f.read())


def imports():
    """{module: names of the project's modules, and tensorflow.compat.v1, that it imports}."""
    names = modules()
    imported = {}
    for name, path in names.items():
        used = set()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                used |= {node.module} | {f'{node.module}.{alias.name}' for alias in node.names}
        imported[name] = used & {*names, 'tensorflow.compat.v1'}
    return imported


def functions(path):
    """[(lines, name)] of a file's functions, methods included, without those within functions."""
    def within(node, prefix=''):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                yield last_line(child) - child.lineno + 1, prefix + child.name
            elif isinstance(child, ast.ClassDef):
                yield from within(child, child.name + '.')
    return sorted(within(tree(path)))


def last_line(node):
    """The last line of a node; Python 3.7 does not tell it."""
    return max(getattr(child, 'lineno', 0) for child in ast.walk(node))


def main():
    print('| file | lines | longest function | imports |\n| --- | --- | --- | --- |')
    lengths = []
    for name, path in modules().items():
        with open(path, encoding='utf-8') as f:
            lines = len(f.readlines())
        own = functions(path)
        lengths += [length for length, _ in own]
        longest = '`{1}` {0}'.format(*own[-1]) if own else ''
        used = ' '.join(sorted(one.replace('dcgan.', '') for one in imports()[name]
                               if one != 'tensorflow.compat.v1'))
        print(f'| `{os.path.relpath(path, ROOT)}` | {lines} | {longest} | {used} |')
    print(f'\n{len(lengths)} functions, median {statistics.median(lengths):.0f} lines')


if __name__ == '__main__':
    main()
